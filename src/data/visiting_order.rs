//! The order in which documents are visited.

/// The maximum number of documents of a shuffled table, which takes 128 MiB.
pub const MAX_TABLE: u64 = 1 << 25;

/// A pseudo-random order of documents by a seed.
pub enum VisitingOrder {
    /// Every document's number, shuffled.
    Table(Vec<u32>),
    /// A permutation computed from the position, which needs no memory.
    Computed(Permutation),
    /// Documents as they come.
    Sequential,
}

impl VisitingOrder {
    /// Orders the `kept` ones of `count` documents. `left_out` has the numbers of the others, sorted,
    /// as far as they are below [`MAX_TABLE`]; those kept are numbered consecutively.
    pub fn new(count: u64, kept: u64, left_out: &[u32], seed: u64) -> Self {
        if count > MAX_TABLE {
            return VisitingOrder::Computed(Permutation::new(kept, seed));
        }
        let mut order: Vec<u32> = (0..count as u32).collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut order);
        if !left_out.is_empty() {
            let number = |document: u32| match left_out.binary_search(&document) {
                Ok(_) => None,
                Err(before) => Some(document - before as u32),
            };
            order = order.into_iter().filter_map(number).collect();
        }
        VisitingOrder::Table(order)
    }

    /// Returns the document at a position.
    pub fn get(&self, position: u64) -> u64 {
        match self {
            VisitingOrder::Table(order) => u64::from(order[position as usize]),
            VisitingOrder::Computed(permutation) => permutation.get(position),
            VisitingOrder::Sequential => position,
        }
    }
}

/// A pseudo-random permutation of `0..len`: a Feistel network over the next power of 4, applied
/// again until the result is below `len` (cycle walking, Black and Rogaway 2002).
pub struct Permutation {
    len: u64,
    /// The keys of the rounds. Four rounds of random functions are a strong pseudo-random
    /// permutation (Luby and Rackoff 1988).
    keys: [u64; 4],
    /// Bits of half a number.
    half_bits: u32,
}

impl Permutation {
    fn new(len: u64, seed: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        let mut rng = fastrand::Rng::with_seed(seed);
        Self {
            len,
            keys: std::array::from_fn(|_| rng.u64(..)),
            half_bits: bits.div_ceil(2),
        }
    }

    fn get(&self, position: u64) -> u64 {
        debug_assert!(position < self.len);
        let mut number = self.encrypt(position);
        while number >= self.len {
            number = self.encrypt(number);
        }
        number
    }

    fn encrypt(&self, number: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (number >> self.half_bits, number & mask);
        for key in self.keys {
            let hash = fastrand::Rng::with_seed(key ^ right).u64(..);
            (left, right) = (right, left ^ (hash & mask));
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computed_order_is_a_permutation_by_seed() {
        for len in [1, 2, 3, 16, 17, 1000] {
            let order = |seed| -> Vec<u64> {
                let permutation = Permutation::new(len, seed);
                (0..len).map(|position| permutation.get(position)).collect()
            };
            let mut sorted = order(1);
            sorted.sort_unstable();
            assert_eq!(sorted, (0..len).collect::<Vec<_>>());
            assert!(len < 16 || order(1) != order(2));
        }
    }

    #[test]
    fn computed_order_has_no_visible_pattern() {
        let len = 100_000;
        let permutation = Permutation::new(len, 7);
        let order: Vec<u64> = (0..len).map(|position| permutation.get(position)).collect();
        // Any tenth of the positions has about a tenth of each tenth of the documents.
        for positions in order.chunks(10_000) {
            for tenth in 0..10 {
                let is_in = |document: &&u64| **document / 10_000 == tenth;
                let count = positions.iter().filter(is_in).count();
                assert!((850..1150).contains(&count), "{count}");
            }
        }
        let steps = order
            .windows(2)
            .filter(|pair| pair[0].abs_diff(pair[1]) < 100);
        assert!(steps.count() < 300);
    }

    #[test]
    fn documents_left_out_keep_the_order_of_the_others() {
        let order = |left_out: &[u32]| match VisitingOrder::new(
            6,
            6 - left_out.len() as u64,
            left_out,
            1,
        ) {
            VisitingOrder::Table(order) => order,
            _ => panic!("not a table"),
        };
        let all = order(&[]);
        let without: Vec<u32> = all
            .iter()
            .copied()
            .filter(|d| ![1, 4].contains(d))
            .collect();
        let names = [0, 2, 3, 5];
        let renamed: Vec<u32> = order(&[1, 4]).iter().map(|&d| names[d as usize]).collect();
        assert_eq!(renamed, without);
    }
}
