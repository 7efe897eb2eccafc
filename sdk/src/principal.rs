//! The principal: who connects, subscribes or publishes.

/// The owner of the key that a client presented.
#[derive(Debug, Clone, Default)]
pub struct Principal {
    /// The id, which all keys of the principal share.
    pub id: String,
    /// The id of the key in the node's configuration.
    pub key_id: String,
    /// The tier of the key; `default` if the key has none.
    pub tier: String,
    /// The names and values of the tags that the operator gave the key, in the order of the names.
    pub tags: Vec<(String, String)>,
}

impl Principal {
    /// A principal with this id, a key of the tier `default` and no tags, for tests.
    pub fn new(id: impl Into<String>) -> Self {
        let (key_id, tier) = ("key-1".to_owned(), "default".to_owned());
        Self { id: id.into(), key_id, tier, tags: vec![] }
    }

    /// The value of the first tag with this name.
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.iter().find(|(tag, _)| tag == name).map(|(_, value)| value.as_str())
    }
}
