//! The parts of a release: workflows and the Dockerfile.

use crate::{documents, files, read, root};

fn workflows() -> Vec<String> {
    files(".github/workflows", "yml")
}

/// A tag can be moved, but a commit cannot change.
#[test]
fn an_action_is_named_by_its_commit_and_its_version() {
    let mut count = 0;
    for name in workflows() {
        let text = read(&name);
        let lines = text
            .lines()
            .map(|line| line.trim_start().trim_start_matches("- "));
        for action in lines.filter_map(|line| line.strip_prefix("uses: ")) {
            let (_, pin) = action.split_once('@').expect("a version");
            let (commit, version) = pin
                .split_once(" # v")
                .unwrap_or_else(|| panic!("{name}: {action} has no version in a comment"));
            let is_commit = commit.len() == 40 && commit.bytes().all(|sign| sign.is_ascii_hexdigit());
            assert!(is_commit, "{name}: {action} is not pinned by commit");
            assert!(
                version.starts_with(|sign: char| sign.is_ascii_digit()),
                "{name}: {action}"
            );
            count += 1;
        }
    }
    assert!(count > 10);
}

#[test]
fn every_workflow_job_names_its_rights_and_timeout() {
    for name in workflows() {
        let [workflow] = documents(&name, &read(&name)).try_into().expect("one document");
        assert_eq!(workflow["permissions"], serde_json::json!({}), "{name}");
        for (job, body) in workflow["jobs"].as_object().expect("jobs") {
            assert!(
                body["permissions"].is_object(),
                "{name}: {job} without permissions"
            );
            assert!(
                body["timeout-minutes"].is_u64(),
                "{name}: {job} without timeout-minutes"
            );
        }
    }
    documents("dependabot.yml", &read(".github/dependabot.yml"));
    documents("cluster.yaml", &read("hack/kind/cluster.yaml"));
}

#[test]
fn workflows_call_existing_make_targets_and_scripts() {
    let makefile = read("Makefile");
    for name in workflows() {
        for line in read(&name).lines() {
            let runs = line.contains("run:") || line.starts_with("          ");
            for target in line.split("make ").skip(1).filter(|_| runs) {
                let target = target.split_whitespace().next().unwrap_or_default();
                assert!(
                    makefile.contains(&format!("\n{target}: ## ")),
                    "{name}: make {target}"
                );
            }
            for script in line.split(".ci/").skip(1) {
                let end = |sign: char| !sign.is_ascii_lowercase() && sign != '-';
                let script = script.split(end).next().unwrap_or_default();
                assert!(root().join(".ci").join(script).exists(), "{name}: .ci/{script}");
            }
        }
    }
}

/// The version of Helm on a runner changes from week to week.
#[test]
fn a_job_that_calls_helm_installs_the_helm_of_the_tests() {
    let helm = read(".ci/helm");
    let (_, version) = helm.split_once("\nversion=").expect("a version");
    let version = version.lines().next().expect("a line");
    let tested = read("hack/tools/helm.txt");
    assert!(
        tested.contains(&format!("amd64: {version} and ")),
        "{version}: {tested}"
    );
    let mut count = 0;
    for name in workflows() {
        let [workflow] = documents(&name, &read(&name)).try_into().expect("one document");
        for (job, body) in workflow["jobs"].as_object().expect("jobs") {
            let steps = body["steps"].as_array().expect("steps");
            let runs: Vec<_> = steps.iter().filter_map(|step| step["run"].as_str()).collect();
            let calls = |run: &&&str| run.contains("helm ") && !run.contains(".ci/helm ");
            if runs
                .iter()
                .any(|run| calls(&run) || run.contains("make kind-test"))
            {
                let installs = runs.iter().any(|run| run.contains(".ci/helm "));
                assert!(installs, "{name}: {job}");
                count += 1;
            }
        }
    }
    assert_eq!(count, 3);
    // Nothing assigns an address to a VIP in kind, so `--wait` would time out.
    let install = read("hack/kind/check.sh");
    let install = install.split_once("upgrade --install").expect("an install").1;
    let install = install.split_once("\n\"${").expect("the end of the install").0;
    assert!(install.contains("vip.create=true") && !install.contains("--wait"));
}

#[test]
fn the_dockerfile_copies_existing_files_and_runs_as_nonroot() {
    let text = read("Dockerfile");
    for sources in text
        .lines()
        .filter_map(|line| line.strip_prefix("COPY ")?.rsplit_once(' '))
        .map(|(sources, _)| sources)
        .filter(|sources| !sources.starts_with("--from"))
    {
        for source in sources.split(' ') {
            assert!(root().join(source).exists(), "Dockerfile: COPY {source}");
            let exception = format!("\n!{source}\n");
            assert!(
                read(".dockerignore").contains(&exception),
                ".dockerignore: {source}"
            );
        }
    }
    let manifest = read("Cargo.toml");
    let (_, members) = manifest.split_once("members = [").expect("the workspace");
    let members = members.split(']').next().unwrap_or_default();
    for member in members
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|member| *member != ".")
    {
        let copied = format!("\nCOPY {member}/Cargo.toml {member}/\n");
        assert!(text.contains(&copied), "Dockerfile: the manifest of {member}");
    }
    assert!(text.contains("\nUSER 65532:65532\n"));
    for base in text.lines().filter_map(|line| line.strip_prefix("FROM ")) {
        assert!(
            base == "scratch" || base.contains("@sha256:"),
            "Dockerfile: FROM {base}"
        );
    }
}

/// In its first build, the Dockerfile has manifests and empty sources. There, cargo rejects a manifest that declares a
/// target without a path.
#[test]
fn targets_in_the_manifests_that_the_dockerfile_copies_have_paths() {
    let text = read("Dockerfile");
    let instructions = text.lines().filter_map(|line| line.strip_prefix("COPY "));
    let files = instructions.flat_map(|files| files.split(' '));
    let mut targets = 0;
    for file in files.filter(|file| file.ends_with("Cargo.toml")) {
        for target in read(file).split("\n[[").skip(1) {
            let target = target.split("\n[").next().unwrap_or_default();
            assert!(target.contains("\npath = "), "{file}: [[{target}");
            targets += 1;
        }
    }
    assert!(targets > 0);
}

/// A default in a stage overrides the value that `BuildKit` sets, so every platform would get the same binary.
#[test]
fn no_platform_argument_of_the_dockerfile_has_a_default() {
    let text = read("Dockerfile");
    let arguments = text.lines().filter_map(|line| line.strip_prefix("ARG "));
    let of_platforms: Vec<_> = arguments
        .filter(|argument| argument.starts_with("TARGET") || argument.starts_with("BUILD"))
        .collect();
    assert_eq!(of_platforms, ["TARGETARCH"]);
}

/// Before the release workflow signs the images, it runs hack/image/machine.py on the binary of each platform.
#[test]
fn a_binary_for_another_architecture_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut header = *b"\x7fELF................";
    let mut check = |machine: u16, architecture: &str| {
        header[18..].copy_from_slice(&machine.to_le_bytes());
        let file = folder.path().join("binary");
        std::fs::write(&file, header).expect("written");
        let pair = format!("{architecture}={}", file.display());
        let script = root().join("hack/image/machine.py");
        let output = std::process::Command::new("python3")
            .arg(script)
            .arg(pair)
            .output();
        output.map(|output| output.status.success()).ok()
    };
    // The numbers are from the ELF specification: EM_X86_64, EM_AARCH64.
    for (machine, architecture, fits) in [
        (62, "amd64", true),
        (183, "arm64", true),
        (62, "arm64", false),
        (183, "amd64", false),
        (62, "s390x", false),
    ] {
        let Some(found) = check(machine, architecture) else {
            println!("skipped: needs python3");
            return;
        };
        assert_eq!(found, fits, "{machine} for {architecture}");
    }
}

#[test]
fn workflows_and_the_dockerfile_build_with_one_rust() {
    let dockerfile = read("Dockerfile");
    let (_, builder) = dockerfile.split_once(" rust:").expect("the builder");
    let rust = builder.split('-').next().unwrap_or_default();
    for name in workflows() {
        for line in read(&name).lines() {
            if let Some(stated) = line.trim_start().strip_prefix("RUST: ") {
                assert_eq!(stated.trim_matches('"'), rust, "{name}");
            }
        }
    }
}

/// The jobs that a job needs, directly or through others.
fn needed(jobs: &serde_json::Value, job: &str) -> std::collections::BTreeSet<String> {
    let needs = &jobs[job]["needs"];
    let direct: Vec<_> = match needs {
        serde_json::Value::String(one) => vec![one.as_str()],
        _ => needs
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|it| it.as_str())
            .collect(),
    };
    let mut all = std::collections::BTreeSet::new();
    for name in direct {
        all.insert(name.to_owned());
        all.extend(needed(jobs, name));
    }
    all
}

/// A job with a write permission has a token that can publish.
#[test]
fn every_release_job_that_publishes_waits_for_checks_and_review() {
    let name = ".github/workflows/release.yml";
    let [workflow] = documents(name, &read(name)).try_into().expect("one document");
    let jobs = &workflow["jobs"];
    let review = jobs.as_object().expect("jobs").iter();
    let review: Vec<_> = review
        .filter(|(_, body)| body["environment"] == "release")
        .collect();
    let [(review, _)] = review[..] else {
        panic!("{review:?}")
    };
    assert!(needed(jobs, review).contains("check"));
    let mut count = 0;
    for (job, body) in jobs.as_object().expect("jobs") {
        let rights = body["permissions"].as_object().expect("permissions");
        if rights.values().any(|right| right == "write") {
            assert!(needed(jobs, job).contains(review), "{job}");
            count += 1;
        }
    }
    assert_eq!(count, 5);
    let steps = jobs["check"]["steps"].as_array().expect("steps");
    assert_eq!(steps[0]["with"]["fetch-depth"], 0);
    assert_eq!(steps[1]["run"], ".ci/on-main \"$GITHUB_REF_NAME\"");
    let guide = read("docs/contributing/releasing.md");
    assert!(guide.contains("a `release` environment"));
}

/// Runs git in a folder.
fn git(folder: &std::path::Path, args: &[&str]) {
    let identity = [
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@example.com",
        "-c",
        "commit.gpgsign=false",
        "-c",
        "tag.gpgsign=false",
    ];
    let output = std::process::Command::new("git")
        .current_dir(folder)
        .args(identity)
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .expect("git starts");
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_tag_that_is_not_on_main_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let [origin, clone] = ["origin", "clone"].map(|name| folder.path().join(name));
    std::fs::create_dir(&origin).expect("a folder");
    // Commits with the same message, parent and time would be identical.
    let commit = |message| git(&origin, &["commit", "--quiet", "--allow-empty", "-m", message]);
    git(&origin, &["init", "--quiet", "--initial-branch=main"]);
    commit("one");
    git(&origin, &["tag", "v0.0.1"]);
    git(&origin, &["checkout", "--quiet", "-b", "aside"]);
    commit("two");
    git(&origin, &["tag", "--annotate", "--message=two", "v0.0.2"]);
    git(&origin, &["checkout", "--quiet", "main"]);
    commit("three");
    git(&origin, &["tag", "--annotate", "--message=three", "v0.0.3"]);
    git(
        folder.path(),
        &["clone", "--quiet", &origin.display().to_string(), "clone"],
    );
    let check = |tag: &str| {
        let script = root().join(".ci/on-main");
        let output = std::process::Command::new(script)
            .current_dir(&clone)
            .arg(tag)
            .output();
        let output = output.expect("the script starts");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    for (tag, is_on_main) in [
        ("v0.0.1", true),
        ("v0.0.2", false),
        ("v0.0.3", true),
        ("v0.0.4", false),
    ] {
        let (found, error) = check(tag);
        assert_eq!(found, is_on_main, "{tag}: {error}");
    }
    assert!(check("v0.0.2").1.contains("is not on main"));
    git(&clone, &["update-ref", "-d", "refs/remotes/origin/main"]);
    let (found, error) = check("v0.0.1");
    assert!(
        !found && error.contains("fetch-depth"),
        "a checkout without the branch was not refused for its fetch-depth: {error}"
    );
}
