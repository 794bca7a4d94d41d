//! Child processes of a test, and the folder that they write into.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// A child that is killed when the guard is dropped.
#[derive(Debug)]
pub struct Guard(pub Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // SIGKILL also ends a stopped process. An error means that the process has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Guard {
    pub fn start(command: &[String], log: &Path) -> io::Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(Self(command.spawn()?))
    }

    /// Waits for at most 5 s until SIGSTOP has stopped all threads of the process. The signal can take effect after
    /// `kill` has returned, and threads of the process can still answer until it does.
    pub fn wait_until_stopped(&self) {
        let patience = std::time::Instant::now() + Duration::from_secs(5);
        while !all_stopped(self.0.id()) && std::time::Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends a signal by name. The standard library can only send KILL, and `unsafe` is forbidden here.
    pub fn signal(&self, name: &str) -> io::Result<()> {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.0.id().to_string())
            .status()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("kill -{name}: {status}")))
        }
    }
}

/// Whether every thread of a process is stopped. Without `/proc`, this is unknown and counts as true.
fn all_stopped(process: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else {
        return true;
    };
    threads.flatten().all(|thread| {
        let status = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state is the first word after the name, which is in parentheses and may contain any character.
        status
            .rsplit_once(") ")
            .is_none_or(|(_, rest)| rest.starts_with('T'))
    })
}

/// A temporary folder, which `Drop` removes.
#[derive(Debug)]
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("testbed-real-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    pub fn write(&self, name: &str, text: &str) -> io::Result<String> {
        let file = self.0.join(name);
        fs::write(&file, text)?;
        Ok(file.display().to_string())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The system cleans up files that cannot be removed here.
        let _ = fs::remove_dir_all(&self.0);
    }
}
