//! Consistent reads of a model directory.

use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::commit::{committed_files, open_file, read_json_file, staged};
use super::files::FILES;
use super::json::JsonObject;

/// The maximum number of attempts to open the files while saves replace them.
const MAX_ATTEMPTS: usize = 100;

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

/// The open files of one save of a model directory. Later saves don't affect them, so readers need
/// no lock.
pub struct Snapshot {
    dir: PathBuf,
    files: Vec<(&'static str, File)>,
}

impl Snapshot {
    /// Opens all existing files of a model directory, all from the same save.
    pub fn open(dir: &Path) -> Result<Self> {
        let metadata = fs::metadata(dir)
            .with_context(|| format!("cannot open the model directory {}", dir.display()))?;
        if !metadata.is_dir() {
            bail!(
                "{} is not a directory; a model is a directory that `microgpt train` writes",
                dir.display()
            );
        }
        for _ in 0..MAX_ATTEMPTS {
            let files = open_files(dir)?;
            // A save between the first open and the last would have given a name another inode.
            // The open files keep their inodes from being reused.
            if inodes(&open_files(dir)?)? == inodes(&files)? {
                return Ok(Self {
                    dir: dir.to_path_buf(),
                    files,
                });
            }
        }
        bail!("{} changes faster than it can be read", dir.display())
    }

    /// Returns whether the directory has a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.files.iter().any(|(file_name, _)| *file_name == name)
    }

    /// Returns the path of a file, for messages.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn file(&self, name: &str) -> Result<&File> {
        match self.files.iter().find(|(file_name, _)| *file_name == name) {
            Some((_, file)) => Ok(file),
            None => bail!("{} is missing", self.path(name).display()),
        }
    }

    /// Maps a file into memory.
    pub fn map(&self, name: &str) -> Result<FileBytes> {
        // SAFETY: a mapped file must not change. A save never writes to an existing file; it renames
        // a new one over it. README.md forbids other programs to write to it.
        let map = unsafe { memmap2::Mmap::map(self.file(name)?) };
        let map = map.with_context(|| format!("cannot map {}", self.path(name).display()))?;
        Ok(FileBytes::Mapped(map))
    }

    /// Reads a file that holds a JSON object.
    pub fn read_json(&self, name: &str) -> Result<JsonObject> {
        JsonObject::parse(&self.read(name)?).with_context(|| self.path(name).display().to_string())
    }

    /// Reads a JSON file.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let bytes = read_json_file(self.file(name)?);
        bytes.with_context(|| format!("cannot read {}", self.path(name).display()))
    }

    /// Returns the total size of the files in bytes.
    pub fn size_on_disk(&self) -> Result<u64> {
        self.files
            .iter()
            .map(|(_, file)| Ok(file.metadata()?.len()))
            .sum()
    }
}

/// Opens the existing files. A committed file may still have its staged name.
fn open_files(dir: &Path) -> Result<Vec<(&'static str, File)>> {
    let committed = committed_files(dir)?.unwrap_or_default();
    let mut files = Vec::new();
    for name in FILES {
        let mut paths = vec![dir.join(name)];
        if committed.iter().any(|committed| committed == name) {
            paths.insert(0, dir.join(staged(name)));
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

/// Returns the name, device and inode of each file.
fn inodes(files: &[(&'static str, File)]) -> io::Result<Vec<(&'static str, u64, u64)>> {
    files
        .iter()
        .map(|(name, file)| {
            let metadata = file.metadata()?;
            Ok((*name, metadata.dev(), metadata.ino()))
        })
        .collect()
}
