//! What a client is told when a plugin refuses: the one place where a plugin's answer becomes a code of the wire.

use switchyard_plugin::{Call, RefusalCode};
use switchyard_protocol::{Code, Refusal};

/// How long a publisher waits that a plugin limits, in milliseconds.
const PUBLISH_RETRY_MS: u64 = 1000;

/// The refusal of a plugin's `hook` in the terms of the wire. The text is the plugin's.
pub(super) fn wire_refusal(hook: Call, refusal: switchyard_plugin::Refusal) -> Refusal {
    use RefusalCode::{Denied, Failed, Invalid, Limit, TooLarge};
    let code = match (hook, refusal.code) {
        (_, Failed) => Code::PluginFailed,
        (Call::Connect, Limit) => Code::ConnectionLimit,
        (Call::Connect, Denied | Invalid | TooLarge) => Code::Forbidden,
        (Call::Publish, Limit) => {
            return Refusal::retry(Code::RateLimited, refusal.message, PUBLISH_RETRY_MS);
        }
        (Call::Publish, TooLarge) => Code::MessageTooLarge,
        (Call::Publish, Denied | Invalid) => Code::MessageRejected,
        (_, Limit) => Code::RoomLimit,
        (_, Denied) => Code::RoomRejected,
        (Call::Room, Invalid | TooLarge) => Code::RoomInvalid,
        (_, Invalid | TooLarge) => Code::FilterInvalid,
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
            (Call::Connect, Code::Forbidden, Code::ConnectionLimit, Code::Forbidden),
            (Call::Room, Code::RoomRejected, Code::RoomLimit, Code::RoomInvalid),
            (Call::Subscribe, Code::RoomRejected, Code::RoomLimit, Code::FilterInvalid),
            (Call::Publish, Code::MessageRejected, Code::RateLimited, Code::MessageTooLarge),
        ] {
            assert_eq!(code(hook, RefusalCode::Denied), denied, "{hook:?}");
            assert_eq!(code(hook, RefusalCode::Limit), limit, "{hook:?}");
            assert_eq!(code(hook, RefusalCode::TooLarge), too_large, "{hook:?}");
            assert_eq!(code(hook, RefusalCode::Failed), Code::PluginFailed, "{hook:?}");
        }
    }
}
