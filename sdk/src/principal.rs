//! Who is asking.

/// The owner of the key that a connection came with.
#[derive(Debug, Clone, Default)]
pub struct Principal {
    pub id: String,
    /// `default` for a key without one.
    pub tier: String,
    /// What the operator attached to the key, in the configuration's order.
    pub tags: Vec<(String, String)>,
}

impl Principal {
    /// The value of the first tag of this name.
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.iter().find(|(tag, _)| tag == name).map(|(_, value)| value.as_str())
    }
}
