//! Atomic saves of a model directory.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::{Context, Result};

use super::commit::{COMMIT, committed_files, staged};
use super::disk;
use super::files::{FILES, HUGGINGFACE_FILES};

/// Replaces the files `names` of a model directory atomically. Creates the directory if it is
/// missing; keeps its other files.
///
/// On return, the files are on disk. After an error or a kill, [`Snapshot`](super::Snapshot) reads
/// either all old files or all new ones.
///
/// `content` returns the bytes of a file. It is called for one file at a time, to bound memory.
pub fn save(dir: &Path, names: &[&str], content: impl Fn(&str) -> Result<Vec<u8>>) -> Result<()> {
    disk::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    recover(dir).with_context(|| format!("cannot complete the last save of {}", dir.display()))?;
    stage_and_commit(dir, names, content).inspect_err(|_| {
        // Best effort: the old files are untouched, and the next save removes the staged ones.
        for name in names {
            let _ = disk::remove(&dir.join(staged(name)));
        }
        let _ = disk::remove(&dir.join(staged(COMMIT)));
    })?;
    recover(dir).with_context(|| format!("cannot complete the save of {}", dir.display()))
}

/// Checks that a model can be saved in `dir`. Creates the directory if it is missing.
pub fn check_writable(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let probe = dir.join(staged(COMMIT));
    // Removes the leftover of an interrupted save, or a link, which must not be followed.
    ignore_not_found(fs::remove_file(&probe))
        .and_then(|()| File::create_new(&probe))
        .and_then(|_| fs::remove_file(&probe))
        .with_context(|| format!("cannot write to {}", dir.display()))
}

/// Writes the staged files, then renames the commit file into place.
fn stage_and_commit(
    dir: &Path,
    names: &[&str],
    content: impl Fn(&str) -> Result<Vec<u8>>,
) -> Result<()> {
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.join(staged(name));
        disk::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    for name in names {
        write(name, &content(name)?)?;
    }
    write(
        COMMIT,
        serde_json::json!({ "files": names }).to_string().as_bytes(),
    )?;
    let commit = || {
        // The staged names must be on disk before the commit file's name is.
        disk::sync_directory(dir)?;
        disk::rename(&dir.join(staged(COMMIT)), &dir.join(COMMIT))
    };
    commit().with_context(|| format!("cannot commit the save of {}", dir.display()))
}

/// Completes a committed save, and removes the files of an uncommitted one.
fn recover(dir: &Path) -> Result<()> {
    if let Some(names) = committed_files(dir)? {
        disk::sync_directory(dir)?;
        for name in names {
            ignore_not_found(disk::rename(&dir.join(staged(&name)), &dir.join(&name)))
                .with_context(|| format!("cannot replace {}", dir.join(name).display()))?;
        }
        disk::sync_directory(dir)?;
        disk::remove(&dir.join(COMMIT))?;
        disk::sync_directory(dir)?;
    }
    let names = FILES.into_iter().chain(HUGGINGFACE_FILES);
    for name in names.chain([COMMIT]) {
        ignore_not_found(disk::remove(&dir.join(staged(name))))?;
    }
    Ok(())
}

fn ignore_not_found(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::super::disk::faults::{self, Fault};
    use super::super::files::{META, WEIGHTS};
    use super::super::snapshot::Snapshot;
    use super::*;

    fn content(dir: &Path) -> Vec<(&'static str, Vec<u8>)> {
        let snapshot = Snapshot::open(dir).unwrap();
        FILES
            .into_iter()
            .filter(|name| snapshot.has(name))
            .map(|name| (name, snapshot.read(name).unwrap()))
            .collect()
    }

    fn files(generation: u8) -> Vec<(&'static str, Vec<u8>)> {
        FILES
            .into_iter()
            .map(|name| (name, vec![generation; 10]))
            .collect()
    }

    fn save(dir: &Path, files: &[(&str, Vec<u8>)]) -> Result<()> {
        super::save(dir, &names(files), content_of(files))
    }

    fn stage_and_commit(dir: &Path, files: &[(&str, Vec<u8>)]) -> Result<()> {
        super::stage_and_commit(dir, &names(files), content_of(files))
    }

    fn names<'a>(files: &[(&'a str, Vec<u8>)]) -> Vec<&'a str> {
        files.iter().map(|(name, _)| *name).collect()
    }

    fn content_of(files: &[(&str, Vec<u8>)]) -> impl Fn(&str) -> Result<Vec<u8>> {
        |requested| {
            let file = files.iter().find(|(name, _)| *name == requested);
            Ok(file.unwrap().1.clone())
        }
    }

    #[test]
    fn save_replaces_its_files_only() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("a/model");
        save(&dir, &files(1)).unwrap();
        save(&dir, &[(WEIGHTS, b"w".to_vec()), (META, b"m".to_vec())]).unwrap();
        let mut expected = files(1);
        expected[0].1 = b"w".to_vec();
        expected[1].1 = b"m".to_vec();
        assert_eq!(content(&dir), expected);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), FILES.len());
    }

    /// Reconstructs every state of the directory that a kill can leave.
    #[test]
    fn save_killed_at_every_step_reads_as_old_or_new_files() {
        let root = tempfile::tempdir().unwrap();
        for written in 0..=FILES.len() {
            let dir = root.path().join(format!("before-commit-{written}"));
            save(&dir, &files(1)).unwrap();
            for (name, bytes) in &files(2)[..written] {
                fs::write(dir.join(staged(name)), &bytes[..written]).unwrap();
            }
            assert_eq!(content(&dir), files(1));
            save(&dir, &files(3)).unwrap();
            assert_eq!(content(&dir), files(3));
        }
        for renamed in 0..=FILES.len() {
            let dir = root.path().join(format!("after-commit-{renamed}"));
            save(&dir, &files(1)).unwrap();
            stage_and_commit(&dir, &files(2)).unwrap();
            for name in &FILES[..renamed] {
                fs::rename(dir.join(staged(name)), dir.join(name)).unwrap();
            }
            assert_eq!(content(&dir), files(2), "{renamed} files renamed");
            recover(&dir).unwrap();
            assert_eq!(content(&dir), files(2));
            assert_eq!(fs::read_dir(&dir).unwrap().count(), FILES.len());
        }
    }

    #[test]
    fn failed_save_leaves_the_old_files() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &files(1)).unwrap();
        // A directory at the last file's path makes its creation fail, for root too.
        fs::create_dir(dir.path().join(staged(FILES[FILES.len() - 1]))).unwrap();
        assert!(stage_and_commit(dir.path(), &files(2)).is_err());
        assert_eq!(content(dir.path()), files(1));
    }

    /// Interrupts saves over an older model and in an empty directory.
    #[test]
    fn save_interrupted_at_every_step_leaves_old_or_new_files() {
        let root = tempfile::tempdir().unwrap();
        for fault in [Fault::Full, Fault::Fails, Fault::Killed] {
            for old in [files(1), vec![]] {
                let mut at = 0;
                loop {
                    let dir = root.path().join(format!("{fault:?}-{}-{at}", old.len()));
                    save(&dir, &old).unwrap();
                    faults::inject(fault, at);
                    let saved = catch_unwind(|| save(&dir, &files(2)));
                    let steps = faults::steps();
                    faults::clear();
                    let found = content(&dir);
                    assert!(found == old || found == files(2), "{fault:?} at {at}");
                    if matches!(saved, Ok(Ok(()))) {
                        assert_eq!(found, files(2), "a successful save has the new files");
                    }
                    // The next save succeeds and removes all leftovers.
                    save(&dir, &files(3)).unwrap();
                    assert_eq!(content(&dir), files(3));
                    assert_eq!(fs::read_dir(&dir).unwrap().count(), FILES.len());
                    if steps <= at {
                        break;
                    }
                    at += 1;
                }
                // Three steps for each file and the commit file, then the commit.
                assert!(at > (FILES.len() + 1) * 3 + 5, "{at} steps");
            }
        }
    }

    #[test]
    fn concurrent_reader_never_mixes_saves() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &files(0)).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (1..60).for_each(|i| save(dir.path(), &files(i)).unwrap()));
            while !writer.is_finished() {
                let seen = content(dir.path());
                let generation = seen[0].1[0];
                assert_eq!(seen, files(generation));
            }
        });
    }

    #[test]
    fn commit_file_cannot_name_files_outside_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &files(1)).unwrap();
        fs::write(dir.path().join(COMMIT), r#"{"files": ["../secret"]}"#).unwrap();
        let error = Snapshot::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("../secret"), "{error}");
    }
}
