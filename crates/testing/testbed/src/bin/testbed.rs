//! Runs the testbed as a server for kubectl: `testbed --listen 127.0.0.1:6443 --kubeconfig FILE`.

use std::{path::PathBuf, process::ExitCode};
use testbed::{ApiServer, Store, builders};

struct Arguments {
    listen: std::net::SocketAddr,
    kubeconfig: PathBuf,
}

fn arguments() -> Result<Arguments, String> {
    let (mut listen, mut kubeconfig) = ("127.0.0.1:0".to_owned(), None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments
            .next()
            .ok_or_else(|| format!("{argument} needs a value"))?;
        match argument.as_str() {
            "--listen" => listen = value,
            "--kubeconfig" => kubeconfig = Some(PathBuf::from(value)),
            _ => return Err(format!("unknown argument {argument}")),
        }
    }
    Ok(Arguments {
        listen: listen.parse().map_err(|e| format!("--listen {listen}: {e}"))?,
        kubeconfig: kubeconfig.ok_or("--kubeconfig FILE is needed")?,
    })
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::new();
    store.put(builders::kubernetes_service())?;
    store.put(builders::kubernetes_slice(&[
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.3",
    ]))?;
    let serving = ApiServer::new(&store).serve(arguments.listen).await?;
    serving.write_kubeconfig(&arguments.kubeconfig, "admin", "default")?;
    println!(
        "ready at {}, kubeconfig {}",
        serving.url(),
        arguments.kubeconfig.display()
    );
    tokio::signal::ctrl_c().await?;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match arguments() {
        Ok(arguments) => run(arguments).await.map_err(|e| e.to_string()),
        Err(usage) => Err(format!(
            "{usage}\nusage: testbed [--listen ADDRESS:PORT] --kubeconfig FILE"
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
