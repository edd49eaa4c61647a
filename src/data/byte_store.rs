//! Byte arrays of any size: in memory while they are small, else in a temporary file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// The size of a write to a temporary file.
const WRITE_SIZE: usize = 1 << 20;

/// The limit of memory for an array, and the directory of the file beyond it.
#[derive(Clone, Debug)]
pub struct SpillOptions {
    /// The maximum size of an array in memory, in bytes.
    pub max_memory: usize,
    /// The directory of temporary files. They have no name there, so that none is left when the
    /// process ends, even if it is killed.
    pub dir: PathBuf,
}

impl SpillOptions {
    /// Arrays in files of this directory if they exceed 32 MiB.
    pub fn in_dir(dir: impl Into<PathBuf>) -> Self {
        Self {
            max_memory: 32 << 20,
            dir: dir.into(),
        }
    }

    /// Arrays in memory, whatever their size.
    pub fn memory() -> Self {
        Self {
            max_memory: usize::MAX,
            dir: PathBuf::new(),
        }
    }
}

/// An array of bytes to read at any position.
///
/// Files are read by position rather than mapped: a failing disk is an error instead of a signal, and
/// pages in use don't count as memory of the process.
pub enum ByteStore<'a> {
    Borrowed(&'a [u8]),
    Memory(Vec<u8>),
    File { file: File, len: u64 },
}

impl<'a> ByteStore<'a> {
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        match self {
            ByteStore::File { len, .. } => *len,
            ByteStore::Borrowed(bytes) => bytes.len() as u64,
            ByteStore::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Fills `buffer` from a position on, as far as the array goes, and returns the number of bytes.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.len().saturating_sub(position);
        let count = left.min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..count];
        match self {
            ByteStore::File { file, .. } => return file.read_at(buffer, position),
            ByteStore::Borrowed(bytes) => buffer.copy_from_slice(slice(bytes, position, count)),
            ByteStore::Memory(bytes) => buffer.copy_from_slice(slice(bytes, position, count)),
        }
        Ok(count)
    }

    /// Fills `buffer` from a position on. Errors if the array ends before.
    pub fn read_exact_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            ByteStore::File { file, .. } => file.read_exact_at(buffer, position),
            _ if self.read_at(position, buffer)? == buffer.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Returns a reader from the start on.
    pub fn reader(&self) -> ByteReader<'_> {
        ByteReader {
            store: self,
            position: 0,
        }
    }
}

fn slice(bytes: &[u8], position: u64, count: usize) -> &[u8] {
    let start = (position as usize).min(bytes.len());
    &bytes[start..][..count]
}

/// A reader of an array, from its start to its end.
pub struct ByteReader<'a> {
    store: &'a ByteStore<'a>,
    position: u64,
}

impl Read for ByteReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.store.read_at(self.position, buffer)?;
        self.position += count as u64;
        Ok(count)
    }
}

/// An array that grows at its end.
pub struct ByteStoreWriter {
    options: SpillOptions,
    /// All bytes, or those that are not in the file yet.
    buffer: Vec<u8>,
    /// The file and its size, once the array exceeds the memory.
    file: Option<(File, u64)>,
}

impl ByteStoreWriter {
    pub fn new(options: &SpillOptions) -> Self {
        Self {
            options: options.clone(),
            buffer: Vec::new(),
            file: None,
        }
    }

    /// The number of bytes written.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.buffer.len() as u64 + self.file.as_ref().map_or(0, |(_, len)| *len)
    }

    /// Appends bytes. Errors name the directory of the temporary file.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        let limit = match self.file {
            Some(_) => WRITE_SIZE,
            None => self.options.max_memory,
        };
        match self.buffer.len() > limit {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Writes the buffer to the file, which is created for the first one.
    fn flush(&mut self) -> Result<()> {
        self.write_buffer().with_context(|| {
            format!(
                "cannot write a temporary file in {}; --tmp-dir sets another directory",
                self.options.dir.display()
            )
        })
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        let (file, len) = match &mut self.file {
            Some(file) => file,
            None => {
                let file = tempfile::tempfile_in(&self.options.dir)?;
                self.file.insert((file, 0))
            }
        };
        file.write_all(&self.buffer)?;
        *len += self.buffer.len() as u64;
        // A buffer of the memory's limit is not needed any more.
        self.buffer.clear();
        self.buffer.shrink_to(2 * WRITE_SIZE);
        Ok(())
    }

    /// Ends the array.
    pub fn finish(mut self) -> Result<ByteStore<'static>> {
        if self.file.is_none() {
            self.buffer.shrink_to_fit();
            return Ok(ByteStore::Memory(self.buffer));
        }
        self.flush()?;
        let (file, len) = self.file.expect("it was checked");
        Ok(ByteStore::File { file, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn array_in_a_file_reads_like_one_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..5_000_000u32).map(|i| (i * 7 / 3) as u8).collect();
        for max_memory in [0, 1000, usize::MAX] {
            let mut writer = ByteStoreWriter::new(&SpillOptions {
                max_memory,
                dir: dir.path().into(),
            });
            for part in bytes.chunks(777_777) {
                writer.push(part).unwrap();
            }
            assert_eq!(writer.len(), bytes.len() as u64);
            let store = writer.finish().unwrap();
            assert_eq!(
                matches!(store, ByteStore::File { .. }),
                max_memory < usize::MAX
            );
            assert_eq!(store.len(), bytes.len() as u64);
            let mut read = Vec::new();
            store.reader().read_to_end(&mut read).unwrap();
            assert!(read == bytes);
            let mut part = [0; 1000];
            store.read_exact_at(3_999_000, &mut part).unwrap();
            assert_eq!(part, bytes[3_999_000..4_000_000]);
            assert!(store.read_exact_at(4_999_001, &mut part).is_err());
            assert!(store.read_exact_at(6_000_000, &mut part).is_err());
        }
        // The files have no names.
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }
}
