//! etcd: one member for all API servers, or one for each of them.

use super::{process::Guard, server::wait_for_port};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The place where a member runs.
#[derive(Debug)]
pub struct Place {
    /// The arguments that precede the program.
    pub enter: Vec<String>,
    pub address: Ipv4Addr,
    /// The ports for clients and for the other members.
    pub ports: [u16; 2],
}

/// A running member.
#[derive(Debug)]
pub struct Member {
    process: Guard,
    client: SocketAddr,
}

/// Starts the members of one cluster, and returns when all accept clients.
pub async fn start(assets: &Path, folder: &Path, places: &[Place]) -> io::Result<Vec<Member>> {
    let peer = |place: &Place| format!("http://{}:{}", place.address, place.ports[1]);
    let numbered = places.iter().enumerate();
    let peers = numbered.map(|(number, place)| format!("etcd-{number}={}", peer(place)));
    let peers = peers.collect::<Vec<_>>().join(",");
    let log = |number: usize| folder.join(format!("etcd-{number}.log"));
    let mut members = Vec::new();
    for (number, place) in places.iter().enumerate() {
        let client = SocketAddr::from((place.address, place.ports[0]));
        let mut command = place.enter.clone();
        command.extend([
            assets.join("etcd").display().to_string(),
            format!("--name=etcd-{number}"),
            format!("--data-dir={}", folder.join(format!("etcd-{number}")).display()),
            format!("--listen-client-urls=http://{client}"),
            format!("--advertise-client-urls=http://{client}"),
            format!("--listen-peer-urls={}", peer(place)),
            format!("--initial-advertise-peer-urls={}", peer(place)),
            format!("--initial-cluster={peers}"),
            // The data is not needed after the test.
            "--unsafe-no-fsync".to_owned(),
        ]);
        let process = Guard::start(&command, &log(number))?;
        members.push(Member { process, client });
    }
    // No member is ready before a majority of them is running.
    for (number, member) in members.iter().enumerate() {
        wait_for_port(member.client, &log(number)).await?;
    }
    Ok(members)
}

impl Member {
    pub fn url(&self) -> String {
        format!("http://{}", self.client)
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) -> io::Result<()> {
        self.process.signal(name)
    }

    pub fn wait_until_stopped(&self) {
        self.process.wait_until_stopped();
    }

    /// Whether this member is the leader.
    pub async fn leads(&self) -> io::Result<bool> {
        let status = self.call("maintenance/status", json!({})).await?;
        Ok(status["leader"] == status["header"]["member_id"])
    }

    /// The revision of the last change of a key, or null if there is no such key.
    pub async fn revision_of(&self, key: &str) -> io::Result<Value> {
        let range = json!({"key": BASE64_STANDARD.encode(key), "keys_only": true});
        let range = self.call("kv/range", range).await?;
        Ok(range["kvs"][0]["mod_revision"].clone())
    }

    /// Calls the JSON gateway of the member. With HTTP/1.0, the body is the rest of the response.
    async fn call(&self, path: &str, body: Value) -> io::Result<Value> {
        let body = body.to_string();
        let request = format!(
            "POST /v3/{path} HTTP/1.0\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{body}",
            self.client,
            body.len()
        );
        let mut stream = TcpStream::connect(self.client).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        serde_json::from_str(body).map_err(|_| io::Error::other(format!("etcd: {answer}")))
    }
}
