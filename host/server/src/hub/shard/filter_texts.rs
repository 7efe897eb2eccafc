//! The filters of members as the clients wrote them. Members with the same text share it.

use std::{collections::HashMap, sync::Arc};

/// All texts of one shard, and how many members use each of them.
#[derive(Default)]
pub(crate) struct FilterTexts(HashMap<Arc<str>, usize>);

impl FilterTexts {
    /// The shared copy of a text, for one more member.
    pub(super) fn share(&mut self, text: Option<Arc<str>>) -> Option<Arc<str>> {
        let text = text?;
        let shared = self.0.get_key_value(&text).map(|(shared, _)| shared.clone()).unwrap_or(text);
        *self.0.entry(shared.clone()).or_default() += 1;
        Some(shared)
    }

    /// Forgets the text of a member, unless others use it.
    pub(super) fn release(&mut self, text: Option<Arc<str>>) {
        let Some(text) = text else { return };
        let Some(users) = self.0.get_mut(&text) else { return };
        *users -= 1;
        if *users == 0 {
            self.0.remove(&text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_shared_until_the_last_member_leaves() {
        let mut texts = FilterTexts::default();
        let [one, two] = [(), ()].map(|()| texts.share(Some("{\"min\":1}".into())).unwrap());
        assert!(Arc::ptr_eq(&one, &two));
        texts.release(Some(one));
        assert_eq!(texts.0.len(), 1);
        texts.release(Some(two));
        assert!(texts.0.is_empty());
    }
}
