//! Network namespaces, managed with `ip` of iproute2. Only root can create them.

use std::io;
use std::path::Path;
use std::process::Command;

/// A network namespace. `Drop` removes it with its devices.
pub struct Namespace(String);

impl Namespace {
    pub fn new(name: String) -> io::Result<Self> {
        ip(&format!("netns add {name}"))?;
        Ok(Self(name))
    }

    /// The name of the namespace, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Runs `ip` in the namespace.
    pub fn ip(&self, words: &str) -> io::Result<()> {
        ip(&format!("-n {} {words}", self.0))
    }

    /// Completes an `ip` command so that it runs a program in the namespace. The program replaces `ip` in the same
    /// process. Sets `PATH`, because the environment of the command might be empty.
    pub fn enter(&self, mut command: Command, program: &Path) -> Command {
        command.args(["netns", "exec", &self.0]).arg(program);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Devices in the namespace are removed with it, even if their other ends are elsewhere.
        let _ = ip(&format!("netns delete {}", self.0));
    }
}

/// Runs `ip` with these arguments. The error contains what `ip` printed.
pub fn ip(words: &str) -> io::Result<()> {
    output_of_ip(words).map(|_| ())
}

/// Runs `ip` with these arguments, and returns what it printed.
pub fn output_of_ip(words: &str) -> io::Result<String> {
    let output = Command::new("ip").args(words.split_whitespace()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("ip {words}: {}", error.trim())))
}
