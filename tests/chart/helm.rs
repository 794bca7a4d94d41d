//! Helm as a process, and the rendered objects.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use harness::{brought, skipped};
use serde_json::Value;
use tempfile::TempDir;

/// The namespace of the release, unless a test names another.
pub const NAMESPACE: &str = "copier";

/// One Helm binary, with its own home directory.
pub struct Helm {
    program: PathBuf,
    /// The major version: 3 or 4.
    pub major: u8,
    home: TempDir,
}

/// All available Helm binaries. If there is none, prints that the test is skipped.
pub fn helms() -> Vec<Helm> {
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&in_path).map(|folder| folder.join("helm"));
    let installed = ["helm-4", "helm-3"].map(|name| tools().join(name));
    let available: Vec<_> = in_path
        .filter(|program| program.is_file())
        .take(1)
        .chain(installed.into_iter().filter(|program| program.is_file()))
        .map(Helm::new)
        .collect();
    if available.is_empty() {
        skipped("helm");
    }
    available
}

/// The newest Helm, for tests that do not depend on the version.
pub fn helm() -> Option<Helm> {
    helms().into_iter().max_by_key(|helm| helm.major)
}

/// The folder into which `make tools` installs programs.
pub fn tools() -> PathBuf {
    brought(env!("CARGO_TARGET_TMPDIR"))
}

/// The folder of the chart.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/endpoint-copier-operator")
}

/// A file of the chart.
pub fn file(name: &str) -> String {
    let path = chart().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The values files in `ci/`, each with its name, sorted by name.
pub fn cases() -> Vec<(String, PathBuf)> {
    let folder = chart().join("ci");
    let files = std::fs::read_dir(&folder).expect("the folder ci");
    let mut cases: Vec<_> = files
        .map(|file| file.expect("a file"))
        .map(|file| (file.file_name().to_string_lossy().into_owned(), file.path()))
        .collect();
    cases.sort();
    assert!(cases.len() > 8, "{cases:?}");
    cases
}

/// The objects in a text of YAML documents.
pub fn objects(yaml: &str) -> Vec<Value> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect()
}

/// The only object of this kind whose name has this ending.
pub fn find<'a>(objects: &'a [Value], kind: &str, ending: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| {
        let name = object["metadata"]["name"].as_str().expect("a name");
        object["kind"] == kind && name.ends_with(ending)
    });
    let first = found
        .next()
        .unwrap_or_else(|| panic!("there is no {kind} …{ending}"));
    assert!(found.next().is_none(), "two {kind} …{ending}");
    first
}

/// The only container of the Deployment.
pub fn container(objects: &[Value]) -> &Value {
    let containers = &find(objects, "Deployment", "")["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers.as_array().map(Vec::len), Some(1));
    &containers[0]
}

/// The flags of the container.
pub fn args(objects: &[Value]) -> Vec<&str> {
    let args = container(objects)["args"].as_array().expect("args");
    args.iter().map(|arg| arg.as_str().expect("a string")).collect()
}

impl Helm {
    fn new(program: PathBuf) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let mut helm = Self {
            program,
            major: 0,
            home,
        };
        let version = helm.succeed(["version", "--template", "{{.Version}}"]);
        helm.major = version.as_bytes()[1] - b'0';
        helm
    }

    /// Runs Helm without access to a cluster.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.command(Path::new("/dev/null"))
            .args(args)
            .output()
            .expect("helm starts")
    }

    /// A Helm command with this kubeconfig.
    pub fn command(&self, kubeconfig: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("HOME", self.home.path())
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null());
        command
    }

    /// Runs Helm without access to a cluster, and returns its output. Panics if Helm fails.
    pub fn succeed<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        succeeded(&self.run(args))
    }

    /// The objects of a release named `copier`.
    pub fn render(&self, args: &[&str]) -> Vec<Value> {
        self.render_chart(&chart(), args)
    }

    /// The objects of a release of another chart.
    pub fn render_chart(&self, chart: &Path, args: &[&str]) -> Vec<Value> {
        let chart = chart.display().to_string();
        let all = ["template", "copier", &chart, "--namespace", NAMESPACE];
        objects(&self.succeed(all.iter().chain(args)))
    }

    /// The error with which Helm refuses to render the chart. Panics if Helm renders it.
    pub fn refusal(&self, args: &[&str]) -> String {
        let chart = chart().display().to_string();
        let all = ["template", "copier", &chart, "--namespace", NAMESPACE];
        let output = self.run(all.iter().chain(args));
        assert!(!output.status.success(), "rendered with {args:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// The notes of a dry run of an install.
    pub fn notes(&self, args: &[&str]) -> String {
        let chart = chart().display().to_string();
        let all = [
            "install",
            "copier",
            &chart,
            "--namespace",
            NAMESPACE,
            "--dry-run=client",
        ];
        let text = self.succeed(all.iter().chain(args));
        let (_, notes) = text.split_once("\nNOTES:\n").expect("notes");
        notes.to_owned()
    }
}

/// The standard output of a run of Helm. Panics if the run failed.
pub fn succeeded(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "helm: {error}");
    String::from_utf8(output.stdout.clone()).expect("a string")
}
