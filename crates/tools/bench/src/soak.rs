//! Runs three replicas for a long time while objects change, processes are killed and API servers fail, and checks that
//! nothing grows and that every copy is right in the end.
//!
//! The first replica is never killed, so its memory and descriptors are those of one process for the whole run. It is
//! sometimes suspended, so that it loses the Lease and wins it back.

mod signals;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use harness::objects::{managed, slice, vip};
use harness::{Cluster, Operator, Place, Platform, USERS, within};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::time::sleep;

/// The number of managed Services, each with its own source.
const SERVICES: usize = 50;

/// The number of sources that change each second.
const CHANGES: usize = 5;

/// The time between two faults. Each fault ends before the next one begins.
const FAULT_PERIOD: Duration = Duration::from_secs(30);

/// The maximum time from the end of the last fault until all copies are right. A server that has failed repeatedly
/// returns only after a minute.
const SETTLE: Duration = Duration::from_secs(150);

/// The maximum time that copies may take to become right while no fault is active.
const LAG: Duration = Duration::from_secs(10);

/// The maximum ratio of memory use in the last quarter of the run to that in the second quarter.
const GROWTH: f64 = 1.05;

/// How many more descriptors the last quarter of the run may use than the second quarter.
const MORE_DESCRIPTORS: usize = 3;

const MIB: f64 = 1_048_576.0;

/// The state of the first replica at one moment.
#[derive(Clone, Copy)]
struct Sample {
    memory: u64,
    descriptors: usize,
    threads: usize,
}

struct Soak {
    replicas: Vec<Operator>,
    cluster: Cluster,
    /// The number of addresses of each source.
    sources: Vec<usize>,
    changes: usize,
    /// The observed holders of the Lease, in order. A holder is added whenever it differs from the previous one.
    leaders: Vec<String>,
    failures: Vec<String>,
}

impl Soak {
    async fn start(operator: PathBuf) -> Self {
        let cluster = Cluster::start_listed(Platform::Testbed, operator, None).await;
        let mut soak = Self {
            replicas: Vec::new(),
            cluster,
            sources: vec![1; SERVICES],
            changes: 0,
            leaders: Vec::new(),
            failures: Vec::new(),
        };
        soak.cluster.create::<Service>(vip()).await;
        for number in 0..SERVICES {
            soak.put_source(number).await;
            soak.cluster.create::<Service>(service(number)).await;
        }
        for name in &USERS[1..] {
            soak.replicas.push(soak.replica(name));
        }
        soak
    }

    fn replica(&self, name: &str) -> Operator {
        let place = Place {
            servers: &[0, 1, 2],
            network: None,
        };
        Operator::start_at(&self.cluster, name, place, &["--api-server-mode=auto"])
    }

    fn addresses(&self, number: usize) -> Vec<String> {
        let addresses = 0..self.sources[number];
        addresses
            .map(|address| format!("198.18.{number}.{address}"))
            .collect()
    }

    async fn put_source(&self, number: usize) {
        let addresses = self.addresses(number);
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        let source = source(number);
        let slice = slice("default", &source, &format!("{source}-slice"), &addresses);
        self.cluster.put::<EndpointSlice>(slice).await;
    }

    /// Changes a few sources, and recreates a Service every ten seconds.
    async fn change(&mut self, second: usize) {
        for change in 0..CHANGES {
            let number = (second * 7 + change * 11) % SERVICES;
            self.sources[number] = self.sources[number] % 20 + 1;
            self.put_source(number).await;
            self.changes += 1;
        }
        if second.is_multiple_of(10) {
            let number = second / 10 % SERVICES;
            let name = service_name(number);
            self.cluster.delete::<Service>("default", &name).await;
            self.cluster.create::<Service>(service(number)).await;
        }
        let holder = self.cluster.holder().await;
        if !holder.is_empty() && self.leaders.last() != Some(&holder) {
            self.leaders.push(holder);
        }
    }

    /// Checks that all replicas run and that all copies become right soon, and then injects a fault. The copy of the
    /// VIP is not checked, because a server that has failed repeatedly returns to it late.
    async fn begin(&mut self, fault: usize) {
        for replica in &mut self.replicas {
            if !replica.runs() {
                self.failures.push(format!("{} has exited", replica.name()));
            }
        }
        if !within(LAG, async || self.wrong(false).await.is_empty()).await {
            let wrong = self.wrong(false).await.join(", ");
            self.failures.push(format!("before fault {fault}: {wrong}"));
        }
        match fault % 6 {
            0 => self.replicas[1].signal("KILL"),
            1 => self.cluster.freeze_server(0),
            2 => self.replicas[0].signal("STOP"),
            3 => self.cluster.kill_server(1).await,
            4 => self.replicas[2].signal("TERM"),
            _ => self.cluster.freeze_server(1),
        }
    }

    /// Ends a fault.
    async fn end(&mut self, fault: usize) {
        match fault % 6 {
            0 => self.replicas[1] = self.replica(USERS[2]),
            1 => self.cluster.thaw_server(0),
            2 => self.replicas[0].signal("CONT"),
            3 => self.cluster.start_server(1).await,
            4 => {
                let (status, _) = self.replicas[2].ended().await;
                if !status.success() {
                    self.failures.push(format!("after SIGTERM: {status}"));
                }
                self.replicas[2] = self.replica(USERS[3]);
            }
            _ => self.cluster.thaw_server(1),
        }
    }

    fn sample(&self) -> Sample {
        let first = &self.replicas[0];
        Sample {
            memory: first.memory(),
            descriptors: first.descriptors(),
            threads: first.threads(),
        }
    }

    /// The Services whose copies are wrong.
    async fn wrong(&self, with_vip: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        let servers = [0, 1, 2].map(|server| self.cluster.ip(server));
        let of_number = |number| (service_name(number), self.addresses(number));
        let mut expected: Vec<_> = (0..SERVICES).map(of_number).collect();
        if with_vip {
            expected.push(("kubernetes-vip".to_owned(), servers.to_vec()));
        }
        for (service, mut addresses) in expected {
            addresses.sort();
            let slices = self.cluster.slices_of("default", &service).await;
            let mut endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
            let is_ready =
                endpoints.all(|it| it.conditions.as_ref().is_some_and(|it| it.ready == Some(true)));
            if !is_ready || harness::objects::addresses(&slices) != addresses {
                wrong.push(service);
            }
        }
        wrong
    }
}

fn source(number: usize) -> String {
    format!("source-{number}")
}

fn service_name(number: usize) -> String {
    format!("copy-{number}")
}

fn service(number: usize) -> serde_json::Value {
    managed("default", &service_name(number), "default", &source(number))
}

/// The medians of a part of the samples.
fn medians(samples: &[Sample]) -> Sample {
    Sample {
        memory: median(samples.iter().map(|sample| sample.memory)),
        descriptors: median(samples.iter().map(|sample| sample.descriptors)),
        threads: median(samples.iter().map(|sample| sample.threads)),
    }
}

fn median<T: Ord + Copy>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// Prints the medians of each quarter of the run. Returns whether nothing has grown since the second quarter. The first
/// quarter is not compared, because caches fill during it.
#[expect(clippy::cast_precision_loss, reason = "a few MiB")]
fn is_flat(samples: &[Sample]) -> bool {
    println!("quarter     RSS  descriptors  threads");
    let bound = |quarter: usize| quarter * samples.len() / 4;
    let quarters = [0, 1, 2, 3].map(|quarter| medians(&samples[bound(quarter)..bound(quarter + 1)]));
    for (number, quarter) in quarters.iter().enumerate() {
        let mebibytes = quarter.memory as f64 / MIB;
        let (descriptors, threads) = (quarter.descriptors, quarter.threads);
        println!(
            "{:7}  {mebibytes:2.2} MiB  {descriptors:7}  {threads:7}",
            number + 1
        );
    }
    let [_, second, _, last] = quarters;
    last.memory as f64 <= second.memory as f64 * GROWTH
        && last.descriptors <= second.descriptors + MORE_DESCRIPTORS
        && last.threads <= second.threads
}

/// Returns whether nothing has grown, all copies are right, and no check failed during the run.
async fn run(operator: PathBuf, minutes: u64) -> bool {
    let mut soak = Soak::start(operator).await;
    let (start, mut samples, mut faults) = (Instant::now(), Vec::new(), 0);
    let mut is_active = false;
    for second in 0.. {
        let passed = start.elapsed();
        if passed >= Duration::from_secs(60 * minutes) {
            break;
        }
        soak.change(second).await;
        let of_period = passed.as_secs() % FAULT_PERIOD.as_secs();
        if !is_active && (10..20).contains(&of_period) {
            soak.begin(faults).await;
            is_active = true;
        } else if is_active && !(10..20).contains(&of_period) {
            soak.end(faults).await;
            faults += 1;
            is_active = false;
        }
        if second.is_multiple_of(5) {
            samples.push(soak.sample());
        }
        sleep(Duration::from_secs(1)).await;
    }
    if is_active {
        soak.end(faults).await;
    }
    let settled = within(SETTLE, async || soak.wrong(true).await.is_empty()).await;
    let (changes, leaders) = (soak.changes, soak.leaders.len());
    println!("{minutes} minutes: {changes} changes, {faults} faults, {leaders} terms seen");
    let flat = is_flat(&samples);
    println!(
        "memory, descriptors and threads of the replica that ran the whole time: {}",
        verdict(flat)
    );
    println!(
        "copies: {}",
        if settled {
            "all right".to_owned()
        } else {
            soak.wrong(true).await.join(", ")
        }
    );
    for failure in &soak.failures {
        println!("FAILED: {failure}");
    }
    flat && settled && soak.failures.is_empty()
}

fn verdict(flat: bool) -> &'static str {
    if flat { "flat" } else { "GROWN" }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [operator, minutes] = arguments.as_slice() else {
        eprintln!("usage: soak OPERATOR MINUTES");
        return ExitCode::from(2);
    };
    let (operator, Ok(minutes)) = (PathBuf::from(operator), minutes.parse()) else {
        eprintln!("soak: {minutes}: not a number of minutes");
        return ExitCode::from(2);
    };
    if minutes == 0 {
        eprintln!("soak: at least 1 minute");
        return ExitCode::from(2);
    }
    if !operator.is_file() {
        eprintln!("soak: {} does not exist: run make build", operator.display());
        return ExitCode::from(2);
    }
    signals::run_until_signal("soak", run(operator, minutes)).await
}
