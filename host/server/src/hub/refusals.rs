//! What a client is told when a plugin refuses: the one place where a plugin's answer becomes a code of the wire.

use switchyard_plugin::{Call, RefusalCode};
use switchyard_protocol::{ErrorCode, Refusal};

/// How long a publisher waits that a plugin limits, in milliseconds.
const PUBLISH_RETRY_MS: u64 = 1000;

/// The refusal of a plugin's `hook` in the terms of the wire. The text is the plugin's.
pub(super) fn wire_refusal(hook: Call, refusal: switchyard_plugin::Refusal) -> Refusal {
    use RefusalCode::{Denied, Failed, Invalid, Limit, TooLarge};
    let code = match (hook, refusal.code) {
        (_, Failed) => ErrorCode::PluginFailed,
        (Call::Connect, Limit) => ErrorCode::ConnectionLimit,
        (Call::Connect, Denied | Invalid | TooLarge) => ErrorCode::Forbidden,
        (Call::Publish, Limit) => {
            return Refusal::retry(ErrorCode::RateLimited, refusal.message, PUBLISH_RETRY_MS);
        }
        (Call::Publish, TooLarge) => ErrorCode::MessageTooLarge,
        (Call::Publish, Denied | Invalid) => ErrorCode::MessageRejected,
        (_, Limit) => ErrorCode::RoomLimit,
        (_, Denied) => ErrorCode::RoomRejected,
        (Call::Room, Invalid | TooLarge) => ErrorCode::RoomInvalid,
        (_, Invalid | TooLarge) => ErrorCode::FilterInvalid,
    };
    Refusal::new(code, refusal.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hook_refuses_in_the_terms_of_what_was_asked() {
        let code =
            |hook, code| wire_refusal(hook, switchyard_plugin::Refusal { code, message: "no".into() }).code;
        for (hook, denied, limit, too_large) in [
            (Call::Connect, ErrorCode::Forbidden, ErrorCode::ConnectionLimit, ErrorCode::Forbidden),
            (Call::Room, ErrorCode::RoomRejected, ErrorCode::RoomLimit, ErrorCode::RoomInvalid),
            (Call::Subscribe, ErrorCode::RoomRejected, ErrorCode::RoomLimit, ErrorCode::FilterInvalid),
            (Call::Publish, ErrorCode::MessageRejected, ErrorCode::RateLimited, ErrorCode::MessageTooLarge),
        ] {
            assert_eq!(code(hook, RefusalCode::Denied), denied, "{hook:?}");
            assert_eq!(code(hook, RefusalCode::Limit), limit, "{hook:?}");
            assert_eq!(code(hook, RefusalCode::TooLarge), too_large, "{hook:?}");
            assert_eq!(code(hook, RefusalCode::Failed), ErrorCode::PluginFailed, "{hook:?}");
        }
    }
}
