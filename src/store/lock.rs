//! The exclusive lock of a model directory's writer.
//!
//! The operating system holds the lock on an open file, so it ends with the process, however that
//! ends. Readers need no lock: see [`Snapshot`](super::Snapshot).

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The locked file; it contains the owner's process ID.
const LOCK: &str = "train.lock";

/// An exclusive lock on writing to a model directory, released on drop.
#[derive(Debug)]
pub struct DirectoryLock {
    path: PathBuf,
    file: File,
}

impl DirectoryLock {
    /// Locks an existing directory. Errors if another process holds the lock, and names it.
    pub fn acquire(dir: &Path) -> Result<Self> {
        let path = dir.join(LOCK);
        let cannot = || format!("cannot lock {}", dir.display());
        loop {
            // A link in an untrusted directory could point to any file.
            if fs::symlink_metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
                bail!("cannot lock {}: it is not a regular file", path.display());
            }
            let mut options = File::options();
            let opened = options.read(true).write(true).create(true).truncate(false);
            let mut file = opened.open(&path).with_context(cannot)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => bail!(
                    "another training run{} is writing to {}; wait for its end, or choose another \
                    --output",
                    owner(&mut file),
                    dir.display()
                ),
                Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
            }
            // The previous owner may have removed the file between the open and the lock.
            if !is_at(&file, &path) {
                continue;
            }
            let mut lock = Self { path, file };
            let own = std::process::id().to_string();
            let written = lock.file.set_len(0);
            written
                .and_then(|()| lock.file.write_all(own.as_bytes()))
                .with_context(cannot)?;
            return Ok(lock);
        }
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing the file releases the lock even if its removal fails.
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Returns whether a path leads to an open file, without following a link.
fn is_at(file: &File, path: &Path) -> bool {
    let same = || -> io::Result<bool> {
        let (open, named) = (file.metadata()?, fs::symlink_metadata(path)?);
        Ok((open.dev(), open.ino()) == (named.dev(), named.ino()))
    };
    same().unwrap_or(false)
}

/// Reads the owner from a lock file, for messages: ` (process 123)`.
fn owner(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(20).read_to_string(&mut text) {
        Ok(_) if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() => {
            format!(" (process {text})")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_excludes_others_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        // The leftover of a killed process.
        fs::write(dir.path().join(LOCK), "12345678").unwrap();
        let lock = DirectoryLock::acquire(dir.path()).unwrap();
        let error = DirectoryLock::acquire(dir.path()).unwrap_err().to_string();
        let process = format!("run (process {}) is writing", std::process::id());
        assert!(error.contains(&process), "{error}");
        drop(lock);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        drop(DirectoryLock::acquire(dir.path()).unwrap());
    }

    #[test]
    fn concurrent_owners_never_overlap() {
        let dir = tempfile::tempdir().unwrap();
        let inside = std::sync::atomic::AtomicUsize::new(0);
        let taken = std::sync::atomic::AtomicUsize::new(0);
        let order = std::sync::atomic::Ordering::SeqCst;
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        if let Ok(lock) = DirectoryLock::acquire(dir.path()) {
                            assert_eq!(inside.fetch_add(1, order), 0);
                            taken.fetch_add(1, order);
                            inside.fetch_sub(1, order);
                            drop(lock);
                        }
                    }
                });
            }
        });
        assert!(taken.load(order) > 0);
    }
}
