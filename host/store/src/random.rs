//! Random bits for ids, tokens and epochs. In tests, the model replaces them by its own.

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bits = [0; N];
    #[cfg(test)]
    if crate::redis::model::fill_random(&mut bits) {
        return bits;
    }
    getrandom::fill(&mut bits).expect("the system provides random bits");
    bits
}
