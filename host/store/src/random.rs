//! Random bits, which the model of the tests draws itself.

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bits = [0; N];
    #[cfg(test)]
    if crate::redis::model::draw(&mut bits) {
        return bits;
    }
    getrandom::fill(&mut bits).expect("the system has entropy");
    bits
}
