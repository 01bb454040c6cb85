//! A batch without padding: the tokens of all sequences, one after the other.
//!
//! Sequences are laid out longest first, so that sequences of equal length are
//! neighbours and can share one attention call; results come back in the caller's order.

/// The token before and the token after every text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Specials {
    /// `[CLS]` or `<s>`.
    pub first: u32,
    /// `[SEP]` or `</s>`.
    pub last: u32,
}

/// `T` tokens of `B` sequences. Plain data: a loader thread can build it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedBatch {
    /// `[T]` ids, specials included.
    ids: Vec<i64>,
    /// `[B]` lengths in packed order, descending.
    lengths: Vec<i64>,
    /// `[B]`: the caller's place of each packed sequence.
    order: Vec<i64>,
}

/// Neighbouring sequences of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// Sequences.
    pub count: i64,
    /// Tokens of each.
    pub length: i64,
}

impl Run {
    /// The length of each of its sequences.
    pub fn lengths(&self) -> impl Iterator<Item = i64> + use<> {
        std::iter::repeat_n(self.length, usize::try_from(self.count).unwrap_or(0))
    }
}

impl PackedBatch {
    /// Frames every sequence as `[first] + content[..max_length - 2] + [last]`.
    /// `max_length` counts the specials; below 2 it is taken as 2.
    pub fn new<'a>(
        sequences: impl IntoIterator<Item = &'a [u32]>,
        specials: Specials,
        max_length: usize,
    ) -> Self {
        let content = max_length.saturating_sub(2);
        let cut: Vec<&[u32]> = sequences
            .into_iter()
            .map(|s| &s[..s.len().min(content)])
            .collect();
        let mut order: Vec<usize> = (0..cut.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(cut[i].len()));
        let mut ids = Vec::with_capacity(cut.iter().map(|s| s.len() + 2).sum());
        let mut lengths = Vec::with_capacity(cut.len());
        for &i in &order {
            ids.push(i64::from(specials.first));
            ids.extend(cut[i].iter().map(|&id| i64::from(id)));
            ids.push(i64::from(specials.last));
            lengths.push(cut[i].len() as i64 + 2);
        }
        Self {
            ids,
            lengths,
            order: order.into_iter().map(|i| i as i64).collect(),
        }
    }

    /// One batch of `first`'s sequences followed by `second`'s: two inputs of a
    /// shared encoder in one forward pass.
    pub fn concat(first: &Self, second: &Self) -> Self {
        let shift = first.len() as i64;
        let mut sequences: Vec<(i64, &[i64])> = Vec::with_capacity(first.len() + second.len());
        sequences.extend(first.sequences());
        sequences.extend(second.sequences().map(|(place, ids)| (place + shift, ids)));
        sequences.sort_by_key(|&(place, ids)| (std::cmp::Reverse(ids.len()), place));
        Self {
            ids: sequences
                .iter()
                .flat_map(|(_, ids)| *ids)
                .copied()
                .collect(),
            lengths: sequences.iter().map(|(_, ids)| ids.len() as i64).collect(),
            order: sequences.iter().map(|&(place, _)| place).collect(),
        }
    }

    /// Sequences `B`.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether there is no sequence.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Tokens `T`, specials included.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Length of the longest sequence, specials included.
    pub fn longest(&self) -> usize {
        self.lengths
            .first()
            .map_or(0, |&l| l.unsigned_abs() as usize)
    }

    /// `[T]` token ids in packed order.
    pub(crate) fn ids(&self) -> &[i64] {
        &self.ids
    }

    /// (caller's place, ids) in packed order.
    pub(crate) fn sequences(&self) -> impl Iterator<Item = (i64, &[i64])> {
        let mut rest = self.ids.as_slice();
        self.order
            .iter()
            .zip(&self.lengths)
            .map(move |(&place, &length)| {
                let (ids, tail) = rest.split_at(length.unsigned_abs() as usize);
                rest = tail;
                (place, ids)
            })
    }

    /// Runs of equal length, in packed order.
    pub(crate) fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for &length in &self.lengths {
            match runs.last_mut() {
                Some(run) if run.length == length => run.count += 1,
                _ => runs.push(Run { count: 1, length }),
            }
        }
        runs
    }

    /// Consecutive parts in packed order, as few as hold about `tokens` tokens each, and
    /// about equal: a part ends at the first sequence that completes its portion.
    pub(crate) fn chunks(&self, tokens: usize) -> Vec<Self> {
        let parts = self.tokens().div_ceil(tokens.max(1));
        let mut chunks: Vec<Self> = Vec::new();
        let mut taken = 0;
        for (place, ids) in self.sequences() {
            if taken * parts >= self.tokens() * chunks.len() {
                chunks.push(Self::empty());
            }
            taken += ids.len();
            if let Some(chunk) = chunks.last_mut() {
                chunk.push(place, ids);
            }
        }
        chunks
    }

    /// The batch shared out in `count` parts of about equally many tokens: the longest
    /// sequence that is left goes to the part that has fewest.
    pub(crate) fn shares(&self, count: usize) -> Vec<Self> {
        let mut shares = vec![Self::empty(); count.max(1)];
        for (place, ids) in self.sequences() {
            if let Some(share) = shares.iter_mut().min_by_key(|share| share.tokens()) {
                share.push(place, ids);
            }
        }
        shares
    }

    fn empty() -> Self {
        Self {
            ids: Vec::new(),
            lengths: Vec::new(),
            order: Vec::new(),
        }
    }

    /// Adds a sequence no longer than the last.
    fn push(&mut self, place: i64, ids: &[i64]) {
        self.ids.extend(ids);
        self.lengths.push(ids.len() as i64);
        self.order.push(place);
    }

    /// The same batch with one sequence of `id` after the others, if it takes one to make
    /// the tokens a multiple of `multiple`.
    pub(crate) fn filled_up(&self, multiple: usize, id: i64) -> Self {
        let mut filled = self.clone();
        let tokens = self.ids.len().next_multiple_of(multiple);
        if tokens > self.ids.len() {
            filled.ids.resize(tokens, id);
            filled.lengths.push((tokens - self.ids.len()) as i64);
            filled.order.push(self.order.len() as i64);
        }
        filled
    }

    /// `[B]`: the caller's place of each packed sequence.
    pub(crate) fn order(&self) -> &[i64] {
        &self.order
    }
}

/// `[B]`: where in `order` each place is; `None` if it is the identity.
pub(crate) fn inverse(order: &[i64]) -> Option<Vec<i64>> {
    let mut inverse = vec![0; order.len()];
    for (packed, &place) in order.iter().enumerate() {
        inverse[place.unsigned_abs() as usize] = packed as i64;
    }
    let identity = order.iter().enumerate().all(|(i, &p)| i as i64 == p);
    (!identity).then_some(inverse)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECIALS: Specials = Specials { first: 1, last: 2 };

    fn batch(sequences: &[&[u32]], max_length: usize) -> PackedBatch {
        PackedBatch::new(sequences.iter().copied(), SPECIALS, max_length)
    }

    #[test]
    fn longest_first_with_both_specials_kept_under_truncation() {
        let packed = batch(&[&[7], &[], &[5, 6, 8, 9]], 4);
        assert_eq!(packed.ids(), [1, 5, 6, 2, 1, 7, 2, 1, 2]);
        assert_eq!(inverse(packed.order()).unwrap(), [1, 2, 0]);
        assert_eq!((packed.len(), packed.tokens(), packed.longest()), (3, 9, 4));
    }

    #[test]
    fn runs_join_equal_lengths() {
        let runs = batch(&[&[3], &[4, 5], &[6], &[7, 8]], 16).runs();
        let expected = [(2, 4), (2, 3)].map(|(count, length)| Run { count, length });
        assert_eq!(runs, expected);
    }

    #[test]
    fn chunks_are_the_batch_in_order_and_about_equal() {
        let packed = batch(&[&[3; 9], &[4, 5], &[6], &[7, 8]], 16);
        let cut = |tokens| -> Vec<usize> {
            let chunks = packed.chunks(tokens);
            let joined: Vec<i64> = chunks.iter().flat_map(|c| c.ids.clone()).collect();
            assert_eq!(joined, packed.ids);
            chunks.iter().map(PackedBatch::tokens).collect()
        };
        assert_eq!(cut(8), [11, 4, 7]);
        assert_eq!(cut(21), [11, 11]);
        assert_eq!(cut(22), [22]);
        assert_eq!(cut(usize::MAX), [22]);
    }

    #[test]
    fn shares_hold_every_sequence_once_and_about_equally_many_tokens() {
        let packed = batch(&[&[3; 9], &[4, 5], &[6], &[7, 8], &[9, 9, 9]], 16);
        let shares = packed.shares(2);
        let tokens: Vec<usize> = shares.iter().map(PackedBatch::tokens).collect();
        assert_eq!(tokens, [14, 13]);
        assert_eq!(shares[0].order(), [0, 2]);
        assert_eq!(shares[1].order(), [4, 1, 3]);
        assert_eq!(packed.shares(1), std::slice::from_ref(&packed));
    }

    #[test]
    fn a_batch_is_filled_up_by_one_sequence_or_none() {
        let packed = batch(&[&[3, 4], &[5]], 16);
        let filled = packed.filled_up(4, 9);
        assert_eq!(filled.ids(), [1, 3, 4, 2, 1, 5, 2, 9]);
        assert_eq!((filled.len(), filled.tokens()), (3, 8));
        assert_eq!(filled.filled_up(4, 9), filled);
    }

    #[test]
    fn concat_equals_one_batch_of_all_sequences() {
        let (a, b) = (
            batch(&[&[3], &[4, 5]], 16),
            batch(&[&[6], &[], &[7, 8, 9]], 16),
        );
        let all = batch(&[&[3], &[4, 5], &[6], &[], &[7, 8, 9]], 16);
        assert_eq!(PackedBatch::concat(&a, &b), all);
    }
}
