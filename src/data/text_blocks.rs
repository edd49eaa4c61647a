//! A text in blocks, so that one of any size is read in little memory.

use std::io::Read;

use anyhow::Result;

use super::byte_store::ByteStore;
use super::text_reader::{TextReader, check_utf8, count_line_breaks};

/// The size of a block in bytes, if its lines are not longer.
const BLOCK_SIZE: usize = 1 << 20;

/// The end of a block, where it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockEnd {
    /// After a line break. A longer line makes a larger block.
    Line,
    /// After a line break if there is one, else between two characters.
    Character,
}

/// Visits the blocks of a text, and the number of line breaks before each. `progress` is called with
/// the number of bytes of the text so far. The blocks depend on the text alone, not on where it is.
pub fn for_each_block(
    text: &ByteStore,
    end: BlockEnd,
    progress: &dyn Fn(u64),
    mut visit: impl FnMut(&str, u64) -> Result<()>,
) -> Result<()> {
    let mut reader = TextReader::new(text.reader());
    let mut buffer = Vec::new();
    let (mut size, mut lines, mut bytes) = (BLOCK_SIZE, 0, 0);
    loop {
        let missing = (size - buffer.len()) as u64;
        reader.by_ref().take(missing).read_to_end(&mut buffer)?;
        let is_last = buffer.len() < size;
        let length = match is_last {
            true => buffer.len(),
            false => complete_length(&buffer, end),
        };
        if length == 0 && !is_last {
            // Before a large file that is not text takes all memory as one line.
            if buffer.contains(&0) {
                check_utf8(&buffer, lines)?;
            }
            size *= 2;
            continue;
        }
        let block = check_utf8(&buffer[..length], lines)?;
        visit(block, lines)?;
        if is_last {
            return Ok(());
        }
        lines += count_line_breaks(block.as_bytes());
        bytes += length as u64;
        progress(bytes);
        buffer.drain(..length);
        size = BLOCK_SIZE;
    }
}

/// Returns the length of the start of `bytes` that may be a block; 0 if there is none.
fn complete_length(bytes: &[u8], end: BlockEnd) -> usize {
    if let Some(last) = bytes.iter().rposition(|&byte| byte == b'\n') {
        return last + 1;
    }
    match end {
        BlockEnd::Line => 0,
        // Before the first byte of the last character, of at most four.
        BlockEnd::Character => {
            let is_start = |byte: &u8| byte & 0b1100_0000 != 0b1000_0000;
            let last = bytes.iter().rev().take(4).position(is_start);
            bytes.len() - last.map_or(0, |last| last + 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(text: &[u8], end: BlockEnd) -> Result<Vec<(String, u64)>> {
        let mut blocks = Vec::new();
        for_each_block(&ByteStore::Borrowed(text), end, &|_| {}, |block, lines| {
            blocks.push((block.to_string(), lines));
            Ok(())
        })?;
        Ok(blocks)
    }

    #[test]
    fn blocks_are_the_whole_text() {
        for unit in ["abcdefg\n", "é", "€\r\n", "🦀", "line of text \n\n"] {
            let text = unit.repeat(3 << 20 >> unit.len().ilog2());
            let expected = text.replace("\r\n", "\n");
            for end in [BlockEnd::Line, BlockEnd::Character] {
                let blocks = blocks(text.as_bytes(), end).unwrap();
                let mut joined = String::new();
                for (block, lines) in &blocks {
                    assert_eq!(*lines, count_line_breaks(joined.as_bytes()));
                    joined += block;
                }
                assert!(joined == expected, "{unit:?}");
                assert!(blocks.len() > 1 || !text.contains('\n') && end == BlockEnd::Line);
            }
        }
    }

    #[test]
    fn error_names_the_line_in_a_later_block() {
        let mut text = b"0123456\n".repeat(200_000);
        text.extend(b"\xff\n");
        let error = blocks(&text, BlockEnd::Line).unwrap_err().to_string();
        assert!(error.starts_with("line 200001 is not UTF-8"), "{error}");
    }
}
