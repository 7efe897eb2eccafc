//! The codes and reasons with which the server closes a connection. Knows no socket.

/// Why the server closes a connection.
///
/// The first two digits of the [code](Close::code) tell a client what to do. 44xx: do not come back until
/// something has changed. 45xx: come back with backoff. 46xx: come back without backoff. After 45xx and 46xx
/// the session can be resumed. 4420 is an exception: after it, too, and after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// 4400: the client sent ten bad frames within a minute, or a malformed `connect` with a valid key.
    BadFrames,
    /// 4401: the key is missing, invalid or expired.
    Unauthorized,
    /// 4403: a plugin, the origin of the page or an operator forbids the connection.
    Forbidden,
    /// 4409: another connection has resumed the session.
    TakenOver,
    /// 4410: the key was revoked while it was connected.
    Revoked,
    /// 4420: the client kept making requests that were refused with `rate_limited`, without waiting.
    RateIgnored,
    /// 4429: the principal has too many connections.
    ConnectionLimit,
    /// 4500: an internal error of the server.
    Internal,
    /// 4503: the node is overloaded, or the store or a plugin that authorizes connections does not answer.
    Overloaded,
    /// 4504: no `connect` arrived in time.
    ConnectTimeout,
    /// 4504: nothing arrived from the client for `interval + timeout` of the heartbeat.
    HeartbeatTimeout,
    /// 4508: the client does not read fast enough.
    Slow,
    /// 4600: the node is stopping. The reason is the number of milliseconds, with jitter, that the client
    /// should wait before it comes back.
    Draining(u32),
    /// 1002: the peer does not follow the WebSocket protocol.
    ProtocolError,
    /// 1007: a text frame is not valid UTF-8.
    NotUtf8,
    /// 1009: a frame is larger than the server accepts.
    FrameTooLarge,
}

impl Close {
    /// The status code of the close frame. RFC 6455 defines 1xxx; 4xxx are this protocol's.
    pub fn code(self) -> u16 {
        match self {
            Close::ProtocolError => 1002,
            Close::NotUtf8 => 1007,
            Close::FrameTooLarge => 1009,
            Close::BadFrames => 4400,
            Close::Unauthorized => 4401,
            Close::Forbidden => 4403,
            Close::TakenOver => 4409,
            Close::Revoked => 4410,
            Close::RateIgnored => 4420,
            Close::ConnectionLimit => 4429,
            Close::Internal => 4500,
            Close::Overloaded => 4503,
            Close::ConnectTimeout | Close::HeartbeatTimeout => 4504,
            Close::Slow => 4508,
            Close::Draining(_) => 4600,
        }
    }

    /// The reason in the close frame: a sentence for people, or the number of milliseconds of
    /// [`Close::Draining`]. At most 123 bytes, which is all that a close frame can hold.
    pub fn reason(self) -> String {
        match self {
            Close::Draining(delay) => return delay.to_string(),
            Close::ProtocolError => "not a valid WebSocket frame",
            Close::NotUtf8 => "a text frame is not valid UTF-8",
            Close::FrameTooLarge => {
                "a frame is larger than server.frame allows, or than 16 KiB before connect"
            }
            Close::BadFrames => "ten bad frames within a minute, or a malformed connect",
            Close::Unauthorized => "a valid key or token is required",
            Close::Forbidden => "not allowed here",
            Close::TakenOver => "the session was resumed by another connection",
            Close::Revoked => "the key or token was revoked",
            Close::RateIgnored => "100 requests in 10 s were refused with rate_limited; wait for retryAfter",
            Close::ConnectionLimit => "too many connections of this principal",
            Close::Internal => "internal server error; resume the session",
            Close::Overloaded => "overloaded; resume the session later",
            Close::ConnectTimeout => "no connect arrived in time; try again later",
            Close::HeartbeatTimeout => "nothing was received for too long; resume the session",
            Close::Slow => "too slow to keep up; resume the session",
        }
        .to_owned()
    }

    /// Whether the server discards what is still queued for the client, instead of sending it before the
    /// close frame.
    pub fn discards_queued(self) -> bool {
        matches!(self, Close::Slow | Close::HeartbeatTimeout | Close::TakenOver)
    }
}
