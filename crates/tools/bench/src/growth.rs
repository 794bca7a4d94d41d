//! Measures how the cost of a leader grows with the cluster, and writes a table and a picture for each dimension.
//!
//! Each size runs once, on its own testbed, with one replica and without probes.

mod copies;
mod signals;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use harness::objects::{managed, slice};
use harness::{Cluster, Operator, Place, Platform, USERS};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use plotters::prelude::*;
use tokio::time::sleep;

use crate::copies::{Copies, NOT_SHOWN};

/// The number of changes to a source from which a median is taken.
const CHANGES: u32 = 20;

/// How long an idle replica is measured. During this time, it compares its sources with consistent lists several times.
const IDLE: Duration = Duration::from_secs(20);

/// An idle replica sends fewer requests than this in [`IDLE`]. After a cold start, it sends Events for a while, about a
/// thousand in this time.
const FEW_REQUESTS: f64 = 500.0;

/// The maximum wait for the copy after a change.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster: the number of managed Services, of slices that no managed Service needs, and of endpoints in the slice of
/// each source.
#[derive(Clone, Copy, Debug)]
struct Size {
    services: usize,
    unrelated: usize,
    endpoints: usize,
}

const SMALL: Size = Size {
    services: 10,
    unrelated: 0,
    endpoints: 3,
};

/// What a leader costs.
#[derive(Clone, Copy)]
struct Costs {
    /// From the start of the process until a watch shows all copies, in seconds.
    cold_start: f64,
    /// The requests during a cold start.
    requests: f64,
    /// The CPU time of a cold start, in seconds.
    cold_cpu: f64,
    /// In MiB.
    memory: f64,
    /// The share of a processor while nothing happens, in percent.
    idle: f64,
    /// From the response to a write of a source until a watch shows the copy, in milliseconds.
    change: f64,
    /// The CPU time of such a change, in milliseconds.
    change_cpu: f64,
}

/// The name, unit and value of each cost.
type Cost = (&'static str, fn(&Costs) -> f64);

const COSTS: [Cost; 7] = [
    ("cold start, s", |costs| costs.cold_start),
    ("CPU time of a cold start, s", |costs| costs.cold_cpu),
    ("requests of a cold start", |costs| costs.requests),
    ("memory, MiB", |costs| costs.memory),
    ("idle CPU, %", |costs| costs.idle),
    ("a change, ms", |costs| costs.change),
    ("CPU time of a change, ms", |costs| costs.change_cpu),
];

fn source(number: usize) -> String {
    format!("source-{number}")
}

/// The slice of a source. Its endpoints differ with `version`.
fn source_slice(number: usize, endpoints: usize, version: u32) -> serde_json::Value {
    let [.., version] = version.to_be_bytes();
    let addresses = (0..endpoints).map(|at| format!("10.{version}.{}.{}", at / 250, at % 250 + 1));
    let addresses: Vec<_> = addresses.collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let source = source(number);
    slice("default", &source, &format!("{source}-x7k2p"), &addresses)
}

fn fill(cluster: &Cluster, size: Size) {
    let (store, _) = cluster.testbed().expect("the testbed");
    let put = |object| store.put(object).expect("a valid object");
    for number in 0..size.unrelated {
        put(slice(
            "default",
            "unrelated",
            &format!("unrelated-{number}"),
            &["198.51.100.1"],
        ));
    }
    for number in 0..size.services {
        put(source_slice(number, size.endpoints, 0));
        let mut object = managed("default", &format!("copy-{number}"), "default", &source(number));
        // A Service without a cluster IP is created faster.
        object["spec"]["clusterIP"] = "None".into();
        put(object);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a process has less than 2^52 bytes")]
async fn measure(operator: &Path, size: Size) -> Costs {
    let cluster = Cluster::start(Platform::Testbed, operator, 1).await;
    fill(&cluster, size);
    let copies = Copies::watch(&cluster, "default");
    let start = Instant::now();
    let place = Place {
        servers: &[0],
        network: None,
    };
    let replica = Operator::start_at(
        &cluster,
        USERS[1],
        place,
        &["--probe=off", "--max-services-per-namespace=5000"],
    );
    let shown = harness::objects::addresses([&harness::objects::typed(source_slice(0, size.endpoints, 0))]);
    let last = copies
        .until_shown(&shown.join(","), size.services)
        .await
        .expect(NOT_SHOWN);
    let (cold_start, cold_cpu) = (last.saturating_duration_since(start), replica.cpu_time());
    drop(copies);
    let requests = replica.sent_requests().await;
    until_idle(&replica).await;
    let before = replica.cpu_time();
    sleep(IDLE).await;
    let idle = replica.cpu_time().saturating_sub(before).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    let memory = replica.memory() as f64 / 1_048_576.0;

    let history = cluster.watch_slices("default", "copy-0").await;
    let before = replica.cpu_time();
    let mut changes = Vec::new();
    for version in 1..=CHANGES {
        let object = source_slice(0, size.endpoints, version);
        let mut expected: Vec<_> = harness::objects::addresses([&harness::objects::typed(object.clone())]);
        cluster.put::<EndpointSlice>(object).await;
        let written = Instant::now();
        expected.sort();
        let expected: Vec<_> = expected.iter().map(String::as_str).collect();
        let seen = history.shows(&expected, PATIENCE).await.expect("a copy");
        changes.push(seen.saturating_duration_since(written).as_secs_f64() * 1000.0);
        sleep(Duration::from_millis(100)).await;
    }
    changes.sort_by(f64::total_cmp);
    let change_cpu = replica.cpu_time().saturating_sub(before).as_secs_f64() * 1000.0 / f64::from(CHANGES);
    Costs {
        cold_start: cold_start.as_secs_f64(),
        requests,
        cold_cpu: cold_cpu.as_secs_f64(),
        memory,
        idle,
        change: changes[changes.len() / 2],
        change_cpu,
    }
}

/// Waits until a replica has sent the Events of its cold start.
async fn until_idle(replica: &Operator) {
    let mut sent = replica.sent_requests().await;
    loop {
        sleep(IDLE).await;
        let now = replica.sent_requests().await;
        if now - sent < FEW_REQUESTS {
            return;
        }
        sent = now;
    }
}

/// A table in Markdown, with one line for each size.
fn table(what: &str, rows: &[(usize, Costs)]) -> String {
    let mut text = format!("| {what} |");
    for (name, _) in COSTS {
        _ = write!(text, " {name} |");
    }
    text += "\n|---|";
    text += &"---|".repeat(COSTS.len());
    for (size, costs) in rows {
        _ = write!(text, "\n| {size} |");
        for (_, cost) in COSTS {
            let value = cost(costs);
            let digits = if value >= 100.0 { 0 } else { 2 };
            _ = write!(text, " {value:.digits$} |");
        }
    }
    text
}

/// A picture with a panel for each cost.
#[expect(clippy::cast_precision_loss, reason = "sizes are small")]
fn picture(path: &Path, what: &str, rows: &[(usize, Costs)]) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::new(path, (1200, 520)).into_drawing_area();
    area.fill(&WHITE)?;
    let area = area.titled(what, ("sans-serif", 20))?;
    let most = rows.iter().map(|(size, _)| *size as f64).fold(0.0, f64::max);
    for (panel, (name, cost)) in area.split_evenly((2, 4)).iter().zip(COSTS) {
        let points = rows.iter().map(|(size, costs)| (*size as f64, cost(costs)));
        let top = points.clone().map(|(_, value)| value).fold(0.0, f64::max) * 1.15;
        let mut chart = ChartBuilder::on(panel)
            .caption(name, ("sans-serif", 15))
            .margin(8)
            .x_label_area_size(22)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..most * 1.05, 0.0..top)?;
        chart
            .configure_mesh()
            .x_labels(5)
            .y_labels(5)
            .x_label_formatter(&|size| format!("{size:.0}"))
            .disable_x_mesh()
            .draw()?;
        chart.draw_series(LineSeries::new(points.clone(), &BLUE))?;
        chart.draw_series(points.map(|point| Circle::new(point, 3, BLUE.filled())))?;
    }
    area.present()?;
    Ok(())
}

async fn sweep(
    operator: &Path,
    pictures: &Path,
    (file, what): (&str, &str),
    sizes: &[(usize, Size)],
) -> Result<(), Box<dyn std::error::Error>> {
    let mut rows = Vec::new();
    for (number, size) in sizes {
        rows.push((*number, measure(operator, *size).await));
        eprintln!("{what}: {number} is done");
    }
    println!("{}\n", table(what, &rows));
    picture(&pictures.join(file), what, &rows)
}

async fn all(operator: &Path, pictures: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let of_services = [10, 100, 1_000, 5_000].map(|services| (services, Size { services, ..SMALL }));
    sweep(
        operator,
        pictures,
        ("growth-services.svg", "managed Services"),
        &of_services,
    )
    .await?;
    let of_slices = [1_000, 10_000, 50_000].map(|unrelated| (unrelated, Size { unrelated, ..SMALL }));
    sweep(
        operator,
        pictures,
        ("growth-unrelated.svg", "unrelated slices"),
        &of_slices,
    )
    .await?;
    let of_endpoints = [1, 10, 100, 1_000].map(|endpoints| (endpoints, Size { endpoints, ..SMALL }));
    sweep(
        operator,
        pictures,
        ("growth-endpoints.svg", "endpoints of each source"),
        &of_endpoints,
    )
    .await
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).map(PathBuf::from).collect();
    let [operator, pictures] = arguments.as_slice() else {
        eprintln!("usage: growth OPERATOR FOLDER-FOR-PICTURES");
        return ExitCode::from(2);
    };
    if !operator.is_file() {
        eprintln!("growth: {} does not exist: run make build", operator.display());
        return ExitCode::from(2);
    }
    let run = async {
        let result = all(operator, pictures).await;
        if let Err(error) = &result {
            eprintln!("growth: {error}");
        }
        result.is_ok()
    };
    signals::run_until_signal("growth", run).await
}
