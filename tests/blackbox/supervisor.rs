//! The supervisor of RKE2, which listens on port 9345 next to each API server.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::slice;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::{Cluster, Listening, Platform, SHORT_LEASE};
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio_rustls::TlsAcceptor;

use crate::probes::{
    REFUSES, RETURNS, VIP, copy, create, removals, replica, stays, until_out_of, until_seen_at, until_well,
};

const PORT: u16 = 9345;

/// The path of each request that a supervisor received, and whether the request had credentials.
type Asked = Arc<Mutex<Vec<(String, bool)>>>;

/// Starts a supervisor with the certificate of an API server. The supervisor runs until the returned value is dropped.
async fn supervisor(cluster: &Cluster, address: IpAddr, asked: &Asked) -> Listening {
    let (store, _) = cluster.testbed().expect("on the testbed");
    let (tls, asked) = (TlsAcceptor::from(store.server_tls()), asked.clone());
    Listening::on((address, PORT).into(), move |stream| {
        let (tls, asked) = (tls.clone(), asked.clone());
        async move {
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            let answer = service_fn(|request: Request<Incoming>| {
                let has_credentials = request.headers().contains_key(header::AUTHORIZATION);
                let path = request.uri().path().to_owned();
                asked.lock().expect("no panic").push((path, has_credentials));
                async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("pong")))) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            _ = http.serve_connection(TokioIo::new(stream), answer).await;
        }
    })
    .await
}

/// Rule: 7.ports, 7.token, 7.request
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_supervisor_counts_where_its_port_is_copied() {
    let cluster = Cluster::start_listed(Platform::Testbed, crate::PROGRAM, None).await;
    let (asked, mut supervisors) = (Asked::default(), Vec::new());
    let addresses = [0, 1, 2].map(|server| cluster.address(server).ip());
    for address in addresses {
        supervisors.push(supervisor(&cluster, address, &asked).await);
    }
    let operator = replica(&cluster, "one", 0, &SHORT_LEASE);
    create(&cluster, VIP, json!({})).await;
    let mut both = harness::objects::vip();
    both["metadata"]["name"] = json!("both");
    both["metadata"]["annotations"] = json!({"endpoint-copier/enabled": "true"});
    both["spec"]["ports"] = json!([
        {"name": "https", "port": 6443, "targetPort": cluster.address(0).port()},
        {"name": "supervisor", "port": PORT, "targetPort": PORT},
    ]);
    cluster.create::<k8s_openapi::api::core::v1::Service>(both).await;
    until_well(&cluster, VIP, slice::from_ref(&operator)).await;
    until_well(&cluster, "both", &[]).await;
    for address in addresses {
        until_seen_at(&operator, SocketAddr::from((address, PORT)), "well").await;
    }

    let before = copy(&cluster, VIP).await;
    drop(supervisors.remove(1));
    until_out_of(&cluster, "both", &[1], REFUSES).await;
    let line = format!("took {} out of default/both: ping failed 3 times", addresses[1]);
    operator.until_logged(&line).await;
    stays(&cluster, Duration::from_secs(2)).await;
    assert_eq!(
        copy(&cluster, VIP).await,
        before,
        "the copy has changed although it lacks the supervisor's port"
    );
    supervisors.push(supervisor(&cluster, addresses[1], &asked).await);
    until_out_of(&cluster, "both", &[], RETURNS).await;
    assert_eq!(removals(&operator).await, Some(1), "{}", operator.log());

    let asked = asked.lock().expect("no panic").clone();
    assert!(asked.len() > 10);
    assert!(
        asked
            .iter()
            .all(|request| *request == ("/ping".to_owned(), false)),
        "{asked:?}"
    );
}
