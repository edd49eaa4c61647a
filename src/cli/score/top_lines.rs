//! The oddest lines of all.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// The output of the lines with the most bits per token or byte.
pub struct TopLines {
    max_lines: usize,
    /// The least odd of them first.
    heap: BinaryHeap<Reverse<OddLine>>,
    next_index: u64,
}

struct OddLine {
    mean_bits: f64,
    index: u64,
    output: Vec<u8>,
}

impl TopLines {
    pub fn new(max_lines: usize) -> Self {
        Self {
            max_lines,
            heap: BinaryHeap::new(),
            next_index: 0,
        }
    }

    /// Adds the output of a line, and drops that of the least odd one if there are too many.
    pub fn add(&mut self, mean_bits: f64, output: &[u8]) {
        let index = self.next_index;
        self.next_index += 1;
        let mut line = OddLine {
            mean_bits,
            index,
            output: Vec::new(),
        };
        if self.heap.len() == self.max_lines {
            match self.heap.peek() {
                Some(Reverse(least)) if *least < line => self.heap.pop(),
                _ => return,
            };
        }
        line.output.extend_from_slice(output);
        self.heap.push(Reverse(line));
    }

    /// Returns the output of the lines, the oddest first, and of equally odd ones the earlier.
    pub fn into_outputs(self) -> impl Iterator<Item = Vec<u8>> {
        let lines = self.heap.into_sorted_vec().into_iter();
        lines.map(|Reverse(line)| line.output)
    }
}

/// By oddness; of equally odd lines, the earlier is the greater.
impl Ord for OddLine {
    fn cmp(&self, other: &Self) -> Ordering {
        let bits = self.mean_bits.total_cmp(&other.mean_bits);
        bits.then(other.index.cmp(&self.index))
    }
}

impl PartialOrd for OddLine {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for OddLine {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for OddLine {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_lines_are_those_of_a_stable_sort() {
        let mut rng = fastrand::Rng::with_seed(1);
        for max_lines in [1, 3, 100, 1000] {
            let mut top = TopLines::new(max_lines);
            let mut lines: Vec<(u32, u8)> = (0..200).map(|i| (rng.u32(0..20), i)).collect();
            for (bits, line) in &lines {
                top.add(f64::from(*bits), &[*line]);
                assert!(top.heap.len() <= max_lines);
            }
            lines.sort_by_key(|(bits, _)| Reverse(*bits));
            let expected: Vec<u8> = lines
                .iter()
                .map(|(_, line)| *line)
                .take(max_lines)
                .collect();
            assert_eq!(top.into_outputs().collect::<Vec<_>>().concat(), expected);
        }
    }
}
