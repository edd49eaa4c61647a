//! Saving all or nothing, and reading what was saved whole.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{FILES, JsonObject, disk};

/// Lists the files of a save that is complete but not yet in place.
const COMMIT: &str = "save.commit";

/// The most bytes of a JSON file or a commit file. All of Unicode in `chars` takes less.
const LONGEST: u64 = 8 << 20;

/// How often a reader starts again when a save happens under its hands.
const ATTEMPTS: usize = 100;

/// The name of a file that is written but does not count yet.
fn pending(name: &str) -> String {
    format!("{name}.new")
}

/// Replaces files of a model directory, all or nothing, and creates it where it is missing.
///
/// When this returns, the files are on the disk. When it fails, or the process is killed, the
/// directory holds either all of the old files or all of the new ones, as far as [`Snapshot`] is
/// concerned. Files of the directory that are not among `names` stay as they are.
///
/// `content` makes the bytes of a file when it is to be written, so that memory holds one at a time.
pub fn save(dir: &Path, names: &[&str], content: impl Fn(&str) -> Result<Vec<u8>>) -> Result<()> {
    disk::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    settle(dir).with_context(|| format!("cannot complete the last save of {}", dir.display()))?;
    write_pending(dir, names, content).inspect_err(|_| {
        // The old files are untouched. Giving back the space is a courtesy that may fail too.
        for name in names {
            let _ = disk::remove(&dir.join(pending(name)));
        }
        let _ = disk::remove(&dir.join(pending(COMMIT)));
    })?;
    settle(dir).with_context(|| format!("cannot complete the save of {}", dir.display()))
}

/// Makes sure that a model can be saved in `dir`, which is created where it is missing.
pub fn check_writable(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let probe = dir.join(pending(COMMIT));
    // What lies there does not count yet; a link is not to be followed.
    ignore_missing(fs::remove_file(&probe))
        .and_then(|()| File::create_new(&probe))
        .and_then(|_| fs::remove_file(&probe))
        .with_context(|| format!("cannot write to {}", dir.display()))
}

/// Writes the new files beside the old ones, and then the commit file that makes them count.
fn write_pending(
    dir: &Path,
    names: &[&str],
    content: impl Fn(&str) -> Result<Vec<u8>>,
) -> Result<()> {
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.join(pending(name));
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
        // The new files' names must be on the disk before the commit file's name is.
        disk::sync_directory(dir)?;
        disk::rename(&dir.join(pending(COMMIT)), &dir.join(COMMIT))
    };
    commit().with_context(|| format!("cannot commit the save of {}", dir.display()))
}

/// Brings a directory to rest: puts the files of a committed save in place, and removes those of
/// one that was interrupted before it.
fn settle(dir: &Path) -> Result<()> {
    if let Some(names) = committed(dir)? {
        disk::sync_directory(dir)?;
        for name in names {
            ignore_missing(disk::rename(&dir.join(pending(&name)), &dir.join(&name)))
                .with_context(|| format!("cannot replace {}", dir.join(name).display()))?;
        }
        disk::sync_directory(dir)?;
        disk::remove(&dir.join(COMMIT))?;
        disk::sync_directory(dir)?;
    }
    for name in FILES.into_iter().chain([COMMIT]) {
        ignore_missing(disk::remove(&dir.join(pending(name))))?;
    }
    Ok(())
}

/// The files of the committed save that waits in a directory, if one does.
fn committed(dir: &Path) -> Result<Option<Vec<String>>> {
    let path = dir.join(COMMIT);
    let bytes = match open_file(&path).and_then(|file| read_whole(&file)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let names = JsonObject::parse(&bytes).and_then(|commit| commit.strings("files"));
    let names = names.with_context(|| path.display().to_string())?;
    if let Some(name) = names.iter().find(|name| !FILES.contains(&name.as_str())) {
        bail!(
            "{}: {name:?} is not a file of a model directory",
            path.display()
        );
    }
    Ok(Some(names))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The bytes of a file, mapped or in main memory.
#[derive(Debug)]
pub enum FileBytes {
    Mapped(memmap2::Mmap),
    Read(Vec<u8>),
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            FileBytes::Mapped(map) => map,
            FileBytes::Read(bytes) => bytes,
        }
    }
}

impl From<Vec<u8>> for FileBytes {
    fn from(bytes: Vec<u8>) -> Self {
        FileBytes::Read(bytes)
    }
}

/// The files of a model directory as they were at one moment, safe from any save that comes after.
pub struct Snapshot {
    dir: PathBuf,
    files: Vec<(&'static str, File)>,
}

impl Snapshot {
    /// Opens all files of a model directory that are there, every one from the same save.
    pub fn open(dir: &Path) -> Result<Self> {
        let metadata = fs::metadata(dir)
            .with_context(|| format!("cannot open the model directory {}", dir.display()))?;
        if !metadata.is_dir() {
            bail!(
                "{} is not a directory; a model is a directory that `microgpt train` writes",
                dir.display()
            );
        }
        for _ in 0..ATTEMPTS {
            let files = open_files(dir)?;
            // Had a save come between the first open and the last, a name would lead to another
            // file now. The files are held open, so no new one can have taken an old one's number.
            if identities(&open_files(dir)?)? == identities(&files)? {
                return Ok(Self {
                    dir: dir.to_path_buf(),
                    files,
                });
            }
        }
        bail!("{} changes faster than it can be read", dir.display())
    }

    /// Whether the directory has a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.files.iter().any(|(known, _)| *known == name)
    }

    /// The path of a file, for messages.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The content of a file. Errors where it is missing, or longer than the files that are read
    /// have any reason to be.
    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path(name);
        let Some((_, file)) = self.files.iter().find(|(known, _)| *known == name) else {
            bail!("{} is missing", path.display());
        };
        read_whole(file).with_context(|| format!("cannot read {}", path.display()))
    }

    /// The content of a file, mapped into memory rather than copied there.
    pub fn map(&self, name: &str) -> Result<FileBytes> {
        let path = self.path(name);
        let Some((_, file)) = self.files.iter().find(|(known, _)| *known == name) else {
            bail!("{} is missing", path.display());
        };
        // SAFETY: what is mapped must not change. No save changes a file that is there: it writes
        // another and renames that over it. Whoever writes into the file by other means breaks a
        // promise that README states.
        let map = unsafe { memmap2::Mmap::map(file) };
        let map = map.with_context(|| format!("cannot map {}", path.display()))?;
        Ok(FileBytes::Mapped(map))
    }

    /// A JSON file's object.
    pub fn read_json(&self, name: &str) -> Result<JsonObject> {
        JsonObject::parse(&self.read(name)?).with_context(|| self.path(name).display().to_string())
    }

    /// The size of all files together, in bytes.
    pub fn size_on_disk(&self) -> Result<u64> {
        self.files
            .iter()
            .map(|(_, file)| Ok(file.metadata()?.len()))
            .sum()
    }
}

fn read_whole(mut file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        let message = format!("it has more than {} MiB", LONGEST >> 20);
        return Err(io::Error::other(message));
    }
    Ok(bytes)
}

/// The files of the directory, those of a committed save under whichever name they have by now.
fn open_files(dir: &Path) -> Result<Vec<(&'static str, File)>> {
    let committed = committed(dir)?.unwrap_or_default();
    let mut files = Vec::new();
    for name in FILES {
        let mut paths = vec![dir.join(name)];
        if committed.iter().any(|new| new == name) {
            paths.insert(0, dir.join(pending(name)));
        }
        for path in paths {
            match open_file(&path) {
                Ok(file) => {
                    files.push((name, file));
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot open {}", path.display()));
                }
            }
        }
    }
    Ok(files)
}

/// Opens a regular file; anything else is refused before opening, which for a pipe would wait for
/// its other end.
fn open_file(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    File::open(path)
}

fn identities(files: &[(&'static str, File)]) -> io::Result<Vec<(&'static str, u64, u64)>> {
    files
        .iter()
        .map(|(name, file)| {
            file.metadata()
                .map(|metadata| (*name, metadata.dev(), metadata.ino()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::super::disk::faults::{self, Fault};
    use super::super::{META, WEIGHTS};
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

    fn write_pending(dir: &Path, files: &[(&str, Vec<u8>)]) -> Result<()> {
        super::write_pending(dir, &names(files), content_of(files))
    }

    fn names<'a>(files: &[(&'a str, Vec<u8>)]) -> Vec<&'a str> {
        files.iter().map(|(name, _)| *name).collect()
    }

    fn content_of(files: &[(&str, Vec<u8>)]) -> impl Fn(&str) -> Result<Vec<u8>> {
        |wanted| {
            let file = files.iter().find(|(name, _)| *name == wanted);
            Ok(file.unwrap().1.clone())
        }
    }

    #[test]
    fn a_save_replaces_its_files_and_leaves_nothing_else_behind() {
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

    /// Every state in which a kill can leave the directory, built by hand.
    #[test]
    fn an_interrupted_save_reads_as_the_old_or_the_new_files() {
        let root = tempfile::tempdir().unwrap();
        for written in 0..=FILES.len() {
            let dir = root.path().join(format!("before-commit-{written}"));
            save(&dir, &files(1)).unwrap();
            for (name, bytes) in &files(2)[..written] {
                fs::write(dir.join(pending(name)), &bytes[..written]).unwrap();
            }
            assert_eq!(content(&dir), files(1));
            save(&dir, &files(3)).unwrap();
            assert_eq!(content(&dir), files(3));
        }
        for renamed in 0..=FILES.len() {
            let dir = root.path().join(format!("after-commit-{renamed}"));
            save(&dir, &files(1)).unwrap();
            write_pending(&dir, &files(2)).unwrap();
            for name in &FILES[..renamed] {
                fs::rename(dir.join(pending(name)), dir.join(name)).unwrap();
            }
            assert_eq!(content(&dir), files(2), "{renamed} files renamed");
            settle(&dir).unwrap();
            assert_eq!(content(&dir), files(2));
            assert_eq!(fs::read_dir(&dir).unwrap().count(), FILES.len());
        }
    }

    #[test]
    fn a_save_that_fails_leaves_the_old_files() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &files(1)).unwrap();
        // A directory in the way of the last file makes its creation fail, whoever runs this.
        fs::create_dir(dir.path().join(pending(FILES[4]))).unwrap();
        assert!(write_pending(dir.path(), &files(2)).is_err());
        assert_eq!(content(dir.path()), files(1));
    }

    /// A save that is stopped at each of its steps in turn, over an older model and over nothing.
    #[test]
    fn a_save_may_be_stopped_at_any_step() {
        let root = tempfile::tempdir().unwrap();
        for fault in [Fault::Full, Fault::Fails, Fault::Killed] {
            for old in [files(1), vec![]] {
                let mut at = 0;
                loop {
                    let dir = root.path().join(format!("{fault:?}-{}-{at}", old.len()));
                    save(&dir, &old).unwrap();
                    faults::happens_at(Some((fault, at)));
                    let saved = catch_unwind(|| save(&dir, &files(2)));
                    let steps = faults::steps();
                    faults::happens_at(None);
                    let found = content(&dir);
                    assert!(found == old || found == files(2), "{fault:?} at {at}");
                    if matches!(saved, Ok(Ok(()))) {
                        assert_eq!(found, files(2), "what is saved is there");
                    }
                    // Whatever is left, the next save gets through, and leaves nothing else.
                    save(&dir, &files(3)).unwrap();
                    assert_eq!(content(&dir), files(3));
                    assert_eq!(fs::read_dir(&dir).unwrap().count(), FILES.len());
                    if steps <= at {
                        break;
                    }
                    at += 1;
                }
                // Five files and the commit file in three steps each, and what makes them count.
                assert!(at > 6 * 3 + 5, "{at} steps");
            }
        }
    }

    #[test]
    fn a_reader_never_sees_a_mixture() {
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
    fn a_commit_file_from_a_stranger_cannot_reach_out_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &files(1)).unwrap();
        fs::write(dir.path().join(COMMIT), r#"{"files": ["../secret"]}"#).unwrap();
        let error = Snapshot::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("../secret"), "{error}");
    }
}
