//! Attacks on the operator's token, by servers that the attacker runs.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::objects::slice;
use harness::{Cluster, Listening, SHORT_LEASE, until};
use http::{Request, Response, header};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use crate::on_both;
use crate::probes::{VIP, replica};

/// The credentials that a server received.
type Received = Arc<Mutex<Vec<String>>>;

/// A server whose certificate has the name of the API server, but is signed by the attacker's CA.
async fn impostor(cluster: &Cluster, got: &Received) -> Listening {
    let (tls, got) = (TlsAcceptor::from(testbed::Store::new().server_tls()), got.clone());
    Listening::at(cluster.address(1).ip(), move |stream| {
        let (tls, got) = (tls.clone(), got.clone());
        async move {
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            let answer = service_fn(|request: Request<Incoming>| {
                let credentials = request.headers().get(header::AUTHORIZATION);
                let credentials = credentials.map(|value| value.to_str().expect("ASCII").to_owned());
                got.lock().expect("no panic").extend(credentials);
                async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            _ = http.serve_connection(TokioIo::new(stream), answer).await;
        }
    })
    .await
}

on_both! {
    listed;
    /// Rule: 7.token
    async fn a_server_in_a_forged_slice_gets_no_token(cluster: &mut Cluster) {
        let got = Received::default();
        let impostor = impostor(cluster, &got).await;
        // A named target port takes its number from the slice.
        let mut vip = harness::objects::vip();
        vip["spec"]["ports"][0]["targetPort"] = json!("https");
        cluster.create::<Service>(vip).await;
        let address = impostor.address();
        let mut lure = slice("default", "kubernetes", "kubernetes-lure", &[&address.ip().to_string()]);
        lure["ports"] = json!([{"name": "https", "port": address.port(), "protocol": "TCP"}]);
        cluster.create::<EndpointSlice>(lure).await;
        let flags = [&SHORT_LEASE[..], &["--api-server-mode=auto"]].concat();
        let _operator = replica(cluster, "one", 0, &flags);
        cluster.until_slices("default", VIP, "both slices are copied", |slices| slices.len() == 2).await;
        until("the operator connects to the impostor", async || impostor.accepted() > 0).await;
        sleep(Duration::from_secs(3)).await;
        assert_eq!(*got.lock().expect("no panic"), [""; 0]);
    }
}
