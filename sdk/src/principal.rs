//! The principal: who connects, subscribes or publishes.

/// The owner of the key that a client presented.
#[derive(Debug, Clone, Default)]
pub struct Principal {
    /// The id, which all keys of the principal share.
    pub id: String,
    /// Identifies the key: the first 16 hexadecimal digits of its digest in the node's configuration.
    pub key_id: String,
    /// The tier of the key; `default` if the key has none.
    pub tier: String,
    /// The names and values that the operator attached to the key, in the order of the configuration.
    pub tags: Vec<(String, String)>,
}

impl Principal {
    /// A principal with this id, a key of the tier `default` and no tags, for tests.
    pub fn new(id: impl Into<String>) -> Self {
        let (key_id, tier) = ("0123456789abcdef".to_owned(), "default".to_owned());
        Self { id: id.into(), key_id, tier, tags: vec![] }
    }

    /// The value of the first tag with this name.
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.iter().find(|(tag, _)| tag == name).map(|(_, value)| value.as_str())
    }
}
