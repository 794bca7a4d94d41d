//! Benchmarks of the core: the index, the plan and the verdicts. `make bench-core` runs them.

#![expect(missing_docs, reason = "a macro of criterion makes a public function")]

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::net::IpAddr;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use endpoint_copier_core::index::Scope;
use endpoint_copier_core::model::{EndpointSlice, ServiceKey};
use endpoint_copier_core::plan::{Verdicts, plan};
use endpoint_copier_core::testing::world::World;
use endpoint_copier_core::testing::{Build as _, BuildService as _, BuildSlice as _, facts, service, slice};
use endpoint_copier_core::verdicts::{Candidate, Leadership, Report, Target, judge};

/// The source slice, with `endpoints` endpoints. `last` is the last octet of the address of one endpoint.
fn source(endpoints: usize, last: u8) -> EndpointSlice {
    let mut addresses: Vec<_> = (1..endpoints)
        .map(|n| format!("10.0.{}.{}", n / 250, n % 250))
        .collect();
    addresses.push(format!("10.9.9.{last}"));
    slice("kubernetes").endpoints(addresses.iter().map(String::as_str))
}

/// A change to a source with three endpoints. All managed Services copy this source, so all of them become dirty.
fn index(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("index: change of a source by managed Services");
    for services in [1, 500, 5000] {
        let mut world = World::new().slice(source(3, 1));
        for number in 0..services {
            world.put_service(service(&format!("vip-{number}")).source("default", "kubernetes"));
        }
        let mut index = world.index();
        let scope = Scope::Named(BTreeSet::from(["kubernetes".to_owned()]).into());
        let mut version = 1000;
        group.throughput(Throughput::Elements(services));
        group.bench_function(BenchmarkId::from_parameter(services), |bencher| {
            bencher.iter(|| {
                version += 1;
                let changed = source(3, u8::try_from(version % 250).unwrap_or_default()).version(version);
                black_box(index.apply_slice(&scope, changed))
            });
        });
    }
    group.finish();
}

/// The plan for a Service after one endpoint of its source has changed.
fn plan_by_endpoints(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan: one changed endpoint by endpoints");
    for endpoints in [3, 100, 1000] {
        let mut world = World::new()
            .service(service("kubernetes-vip"))
            .slice(source(endpoints, 1))
            .settled("kubernetes-vip");
        world.put(source(endpoints, 2));
        let snapshot = world.snapshot(&ServiceKey::new("default", "kubernetes-vip"));
        group.bench_function(BenchmarkId::from_parameter(endpoints), |bencher| {
            bencher.iter(|| black_box(plan(black_box(&snapshot), &Verdicts::Off)));
        });
    }
    group.finish();
}

/// The plan after a port was added to a Service whose source has many slices.
fn plan_by_slices(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan: a changed port by slices");
    group.sample_size(10);
    for slices in [1000, 10_000] {
        let vip = || service("vip").source("default", "app");
        let mut world = World::new().service(vip());
        for number in 0..slices {
            let address = format!("10.0.{}.{}", number / 250, number % 250);
            world.put(
                slice(&format!("app-{number}"))
                    .of("app")
                    .endpoints([address.as_str()]),
            );
        }
        let mut world = world.settled("vip");
        world.put_service(vip().number("more", 8443));
        let snapshot = world.snapshot(&ServiceKey::new("default", "vip"));
        group.bench_function(BenchmarkId::from_parameter(slices), |bencher| {
            bencher.iter(|| black_box(plan(black_box(&snapshot), &Verdicts::Off)));
        });
    }
    group.finish();
}

/// The verdicts on API servers, one of which is down.
fn verdicts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("verdicts: one server down by servers");
    for servers in [3_u8, 16] {
        let addresses: Vec<_> = (1..=servers).map(|n| IpAddr::from([192, 0, 2, n])).collect();
        let targets = addresses.iter().enumerate().map(|(number, address)| {
            let facts = if number == 0 { facts::down() } else { facts::well() };
            (Target::new(*address, 6443), facts)
        });
        let report = Report {
            targets: targets.collect::<BTreeMap<_, _>>(),
            leadership: Leadership {
                may_take_out: true,
                is_new: false,
            },
        };
        let candidates: Vec<_> = addresses
            .iter()
            .map(|&address| Candidate {
                address,
                was_out: false,
            })
            .collect();
        let ports = BTreeSet::from([6443]);
        group.bench_function(BenchmarkId::from_parameter(servers), |bencher| {
            bencher.iter(|| black_box(judge(black_box(&candidates), &ports, &report)));
        });
    }
    group.finish();
}

criterion_group!(benches, index, plan_by_endpoints, plan_by_slices, verdicts);
criterion_main!(benches);
