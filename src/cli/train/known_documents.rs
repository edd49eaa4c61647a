//! Samples that repeat a document of the training text.

use std::collections::HashMap;

use anyhow::Result;

use crate::data::Corpus;

/// Returns the number of `samples` that are documents of the corpus. Reads its text again, which
/// takes no memory, however large it is.
pub fn count_repeated(corpus: &Corpus, samples: &[String]) -> Result<u64> {
    let mut counts: HashMap<&str, u64> = HashMap::new();
    for sample in samples {
        *counts.entry(sample).or_default() += 1;
    }
    let mut repeated = 0;
    // Most lines have a length that no sample has, which is faster to see than a hash.
    let longest = samples.iter().map(String::len).max().unwrap_or(0);
    let mut has_length = vec![false; longest + 1];
    samples
        .iter()
        .for_each(|sample| has_length[sample.len()] = true);
    corpus.for_each_text(|document| {
        if has_length.get(document.len()) == Some(&true) {
            repeated += counts.remove(document).unwrap_or(0);
        }
        Ok(())
    })?;
    Ok(repeated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_that_are_documents_are_counted() {
        let corpus = Corpus::documents("emma\n ava \nemma\nmia").unwrap();
        let samples = ["emma", "em", "ava", "emma", ""].map(String::from);
        assert_eq!(count_repeated(&corpus, &samples).unwrap(), 3);
        assert_eq!(count_repeated(&corpus, &[]).unwrap(), 0);
    }
}
