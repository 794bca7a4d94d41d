//! The demo tells its story to the end, with the program that was built beside it.

use std::process::Command;

#[test]
fn the_demo_tells_its_story_and_ends_with_0() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../README.md");
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--readme", readme])
        .output()
        .expect("the demo starts");
    let (told, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{}\n{told}\n{said}", output.status);
    let mut rest = &*told;
    for line in [
        "  kubeconfig  /",
        "/metrics",
        "three replicas start",
        " leads, the others stand by",
        "the Service kubernetes-vip of the README is applied",
        "kubernetes-vip: nothing → 192.0.2.1 192.0.2.2 192.0.2.3",
        "node 192.0.2.2 is lost",
        "kubernetes-vip: 192.0.2.1 192.0.2.2 192.0.2.3 → 192.0.2.1 192.0.2.3",
        "node 192.0.2.2 is back",
        "kubernetes-vip: 192.0.2.1 192.0.2.3 → 192.0.2.1 192.0.2.2 192.0.2.3",
        "the leader, is killed (KILL)",
        "node 192.0.2.3 is lost, while nobody leads",
        " takes the Lease that has run out, and leads",
        "kubernetes-vip: 192.0.2.1 192.0.2.2 192.0.2.3 → 192.0.2.1 192.0.2.2\n",
        "the leader, is asked to stop (TERM)",
        " takes the Lease that was released, and leads",
        " has ended, with exit code 0",
        "kubernetes-vip: 192.0.2.1 192.0.2.2 → 192.0.2.1 192.0.2.2 192.0.2.3",
        "Done: ",
    ] {
        let (_, after) = rest
            .split_once(line)
            .unwrap_or_else(|| panic!("{line:?} is not in its place:\n{told}"));
        rest = after;
    }
}
