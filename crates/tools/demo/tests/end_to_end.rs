//! The demo plays its story to the end, with the operator binary that was built next to it.

use std::process::Command;

#[test]
fn the_demo_plays_its_story_and_exits_with_0() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../README.md");
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--readme", readme])
        .output()
        .expect("the demo starts");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{}\n{stdout}\n{stderr}", output.status);
    let mut rest = &*stdout;
    for line in [
        "  kubeconfig   /",
        "/metrics",
        "three replicas start",
        " leads, the others stand by",
        "the Service kubernetes-vip from the README is applied",
        "kubernetes-vip: nothing → 127.0.0.2 127.0.0.3 127.0.0.4",
        "node 127.0.0.3 is lost",
        "kubernetes-vip: 127.0.0.2 127.0.0.3 127.0.0.4 → 127.0.0.2 127.0.0.4",
        "node 127.0.0.3 is back",
        "kubernetes-vip: 127.0.0.2 127.0.0.4 → 127.0.0.2 127.0.0.3 127.0.0.4",
        "the API server on 127.0.0.3 freezes; default/kubernetes still lists it",
        "kubernetes-vip: 127.0.0.2 127.0.0.3 127.0.0.4 → 127.0.0.2 127.0.0.4",
        "the API server on 127.0.0.3 answers again",
        "kubernetes-vip: 127.0.0.2 127.0.0.4 → 127.0.0.2 127.0.0.3 127.0.0.4",
        "the leader, is killed (KILL)",
        "node 127.0.0.4 is lost while no replica leads",
        " takes the expired Lease and leads",
        "kubernetes-vip: 127.0.0.2 127.0.0.3 127.0.0.4 → 127.0.0.2 127.0.0.3\n",
        "the leader, is asked to stop (TERM)",
        " takes the released Lease and leads",
        " exits with 0",
        "kubernetes-vip: 127.0.0.2 127.0.0.3 → 127.0.0.2 127.0.0.3 127.0.0.4",
        "Done: ",
    ] {
        let (_, after) = rest
            .split_once(line)
            .unwrap_or_else(|| panic!("{line:?} is not in its place:\n{stdout}"));
        rest = after;
    }
}
