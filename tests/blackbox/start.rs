//! The start of the program, and the errors that it prints.

use std::process::{Output, Stdio};

use harness::command;

use crate::PROGRAM;

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = command(PROGRAM.as_ref());
    command
        .args(arguments)
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.output().expect("the operator starts")
}

/// Checks that the program exits with this code, and that its only line besides INFO lines contains all of these words.
fn check_exit(arguments: &[&str], environment: &[(&str, &str)], code: i32, words: &[&str]) {
    let output = run(arguments, environment);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    let errors: Vec<_> = text.lines().filter(|line| !line.contains(" INFO ")).collect();
    assert_eq!(errors.len(), 1, "{arguments:?}: {text}");
    for word in words {
        assert!(errors[0].contains(word), "{arguments:?}: {text}");
    }
}

/// Rule: 4.bad-values, 6.bad-configuration
#[test]
fn bad_arguments_give_one_line_and_code_2() {
    check_exit(&["--no-such-flag"], &[], 2, &["--no-such-flag"]);
    check_exit(
        &["--leader-election-lease-duration=1s"],
        &[],
        2,
        &["--leader-election-lease-duration"],
    );
    check_exit(
        &["--leader-election-renew-deadline=7s"],
        &[],
        2,
        &["renew-deadline"],
    );
    check_exit(
        &[],
        &[("ENDPOINT_COPIER_LOG_FORMAT", "xml")],
        2,
        &["ENDPOINT_COPIER_LOG_FORMAT"],
    );
}

/// Rule: 4.cluster, 6.bad-configuration
#[test]
fn a_missing_cluster_gives_one_line_and_code_2() {
    check_exit(&[], &[("HOME", "/nonexistent")], 2, &["kubeconfig"]);
    check_exit(
        &["--kubeconfig", "/nonexistent/config"],
        &[],
        2,
        &["/nonexistent/config"],
    );
    check_exit(
        &[],
        &[
            ("KUBERNETES_SERVICE_HOST", "192.0.2.1"),
            ("KUBERNETES_SERVICE_PORT", "443"),
        ],
        2,
        &["ServiceAccount"],
    );
}

/// Rule: 4.cluster, 6.bad-configuration
#[test]
fn an_invalid_kubeconfig_gives_one_line_and_code_2() {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("empty", ""),
        ("nonsense", "\u{0}\u{1}nonsense: [[["),
        ("no-context", "apiVersion: v1\nkind: Config\n"),
        (
            "no-cluster",
            "apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n",
        ),
        (
            "bad-ca",
            "apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://127.0.0.1:1', certificate-authority-data: '!!'}}]\nusers: [{name: u, user: {token: t}}]\n",
        ),
    ] {
        let file = directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        let file = file.display().to_string();
        check_exit(
            &[
                "--kubeconfig",
                &file,
                "--metrics-bind-address=0",
                "--health-probe-bind-address=0",
            ],
            &[],
            2,
            &[],
        );
    }
}

/// Rule: 6.restart-may-cure
#[test]
fn an_address_in_use_gives_one_line_and_code_1() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let file = directory.path().join("config");
    std::fs::write(
        &file,
        testbed::kubeconfig("https://127.0.0.1:1", "", "token", "default"),
    )
    .unwrap();
    let file = file.display().to_string();
    let flag = format!("--metrics-bind-address={address}");
    check_exit(&["--kubeconfig", &file, &flag], &[], 1, &[&address]);
}

#[test]
fn help_and_version_are_printed_to_standard_output() {
    for (flag, word) in [
        ("--help", "--leader-elect"),
        ("--version", env!("CARGO_PKG_VERSION")),
    ] {
        let output = run(&[flag], &[]);
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).contains(word), "{flag}");
        assert!(output.stderr.is_empty());
    }
}
