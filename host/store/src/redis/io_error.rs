//! Makes the I/O errors of the Redis client readable: the client keeps only their `Debug` text. Knows no other
//! errors.

use std::{borrow::Cow, io};

/// The error as the system describes it, or the text itself if it is not the `Debug` text of an I/O error.
pub(super) fn readable(text: &str) -> Cow<'_, str> {
    // `Os { code: 111, kind: ConnectionRefused, message: "Connection refused" }`
    let code = text.strip_prefix("Os { code: ").and_then(|rest| rest.split_once(','));
    if let Some(code) = code.and_then(|(code, _)| code.parse().ok()) {
        return io::Error::from_raw_os_error(code).to_string().into();
    }
    // `Custom { kind: UnexpectedEof, error: "bytes remaining on stream" }`
    let custom = text.strip_prefix("Custom { kind: ").and_then(|rest| rest.strip_suffix(" }"));
    if let Some((_, error)) = custom.and_then(|rest| rest.split_once(", error: ")) {
        return error.trim_matches('"').into();
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_io_error_is_shown_as_people_know_it() {
        let refused = io::Error::from_raw_os_error(111);
        assert_eq!(readable(&format!("{refused:?}")), "Connection refused (os error 111)");
        let custom = io::Error::new(io::ErrorKind::UnexpectedEof, "bytes remaining on stream");
        assert_eq!(readable(&format!("{custom:?}")), "bytes remaining on stream");
        assert_eq!(readable("ERR unknown command"), "ERR unknown command");
    }
}
