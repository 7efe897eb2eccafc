//! What the client writes is what the server reads, and what the server writes is what the client reads.

use super::*;
use crate::{
    Close, ErrorCode, Position, Publication, Refusal, Request,
    reply::{
        self, Connected, ConnectionLimits, HeartbeatInfo, HistoryReply, MembersReply, PrincipalInfo,
        Published, Refreshed, RoomResult, RoomResults, RoomStatus,
    },
    request::{self, Ack, Credentials, Id, Publish},
};
use serde_json::value::RawValue;
use std::{sync::Arc, time::Duration};

fn raw(text: &str) -> &RawValue {
    serde_json::from_str(text).unwrap()
}

fn position(epoch: &str, offset: u64) -> Position {
    Position { epoch: epoch.into(), offset }
}

/// What the server reads of a request that a client writes.
fn received(text: &str) -> (Option<Id<'_>>, Request<'_>) {
    request::parse(text).unwrap()
}

/// The id of a request as the server repeats it.
const ID: &str = r#""a\u0062""#;

/// What a client reads of a frame that answers the request with [`ID`].
fn answered(text: &str) -> ServerFrame<'_> {
    let (id, frame) = parse(text).unwrap();
    assert_eq!(id, Some("ab".into()));
    frame
}

#[test]
fn the_server_reads_the_connect_that_a_client_writes() {
    let credentials = Some(Credentials::ApiKey("sk_1".into()));
    let text = ClientRequest::Connect { credentials, session: Some("s_1") }.encode(Some("a\"b".into()));
    let (id, Request::Connect { credentials, session }) = received(&text) else { panic!("{text}") };
    assert_eq!(id.unwrap().get(), r#""a\"b""#);
    let Ok(Some(Credentials::ApiKey(key))) = credentials else { panic!("{text}") };
    assert_eq!((&*key, session.unwrap().as_deref()), ("sk_1", Some("s_1")));
    let text =
        ClientRequest::Refresh { credentials: Credentials::Token("eyJ".into()) }.encode(Some(9.into()));
    assert_eq!(text, r#"{"type":"refresh","id":9,"auth":{"token":"eyJ"}}"#);
    let (_, Request::Refresh { credentials: Credentials::Token(token) }) = received(&text) else {
        panic!("{text}")
    };
    assert_eq!(token, "eyJ");
    let text = ClientRequest::Connect { credentials: None, session: None }.encode(None);
    assert_eq!(text, r#"{"type":"connect"}"#);
}

#[test]
fn the_server_reads_the_subscribe_and_unsubscribe_that_a_client_writes() {
    let filter = raw("{\"b\" : 1.10}");
    let rooms = [
        SubscribeEntry { room: "a", filter: None, since: None },
        SubscribeEntry { room: "b:c", filter: Some(filter), since: Some(position("e", 7)) },
    ];
    let text = ClientRequest::Subscribe { rooms: &rooms }.encode(Some(1.into()));
    let (id, Request::Subscribe { rooms }) = received(&text) else { panic!("{text}") };
    assert_eq!((id.unwrap().get(), &*rooms[0].room, &*rooms[1].room), ("1", "a", "b:c"));
    let [first, second] = [0, 1].map(|n| rooms[n].options.as_ref().unwrap());
    assert_eq!((first.filter, &first.since), (None, &None));
    assert_eq!((second.filter, &second.since), (Some("{\"b\" : 1.10}"), &Some(position("e", 7))));

    let text = ClientRequest::Unsubscribe { rooms: &["a", "b:c"] }.encode(None);
    let (None, Request::Unsubscribe { rooms }) = received(&text) else { panic!("{text}") };
    assert_eq!(rooms, ["a", "b:c"]);
}

#[test]
fn the_server_reads_the_publish_that_a_client_writes() {
    let data = "{\"b\" : 1.10,\t\"a\":[\"\\u00e9\"]}";
    let publish = |event: Option<&'static str>, key: Option<&'static str>| {
        let (event, key) = (event.map(Into::into), key.map(Into::into));
        ClientRequest::Publish(Publish { room: "a:b".into(), event, data: raw(data), key })
    };
    let text = publish(Some("say \"hi\""), Some("k")).encode(Some(4.into()));
    let (id, Request::Publish(read)) = received(&text) else { panic!("{text}") };
    assert_eq!((id.unwrap().get(), &*read.room, read.data.get()), ("4", "a:b", data));
    assert_eq!((read.event.as_deref(), read.key.as_deref()), (Some("say \"hi\""), Some("k")));
    let text = publish(None, None).encode(None);
    assert_eq!(text, format!(r#"{{"type":"publish","room":"a:b","data":{data}}}"#));
}

#[test]
fn the_server_reads_the_ack_that_a_client_writes() {
    let ack = |room, epoch: Option<&str>, offset| Ack { room, epoch: epoch.map(Into::into), offset };
    let acks = [ack("a".into(), None, 3), ack("b:c".into(), Some("e"), 4)];
    let text = ClientRequest::Ack { acks: &acks }.encode(None);
    assert_eq!(text, r#"{"type":"ack","offsets":{"a":3,"b:c":{"epoch":"e","offset":4}}}"#);
    let (None, Request::Ack { acks: read }) = received(&text) else { panic!("{text}") };
    assert_eq!(read.unwrap(), acks);
}

#[test]
fn the_server_reads_the_other_requests_that_a_client_writes() {
    let text = ClientRequest::Members { room: "a" }.encode(Some(5.into()));
    assert!(matches!(received(&text), (Some(_), Request::Members { room }) if room == "a"));
    let since = position("e", 7);
    let text = ClientRequest::History { room: "a", since: Some(&since), limit: Some(10) }.encode(None);
    let (_, Request::History { room, since: read, limit }) = received(&text) else { panic!("{text}") };
    assert_eq!((&*room, read, limit), ("a", Some(since), 10));
    let text = ClientRequest::History { room: "a", since: None, limit: None }.encode(None);
    let (_, Request::History { since, limit, .. }) = received(&text) else { panic!("{text}") };
    assert_eq!((since, limit), (None, request::DEFAULT_HISTORY_MESSAGES));
    let text = ClientRequest::Ping {}.encode(Some(7.into()));
    assert_eq!(text, r#"{"type":"ping","id":7}"#);
    assert!(matches!(received(&text), (Some(_), Request::Ping)));
}

#[test]
fn a_client_reads_the_connected_that_the_server_writes() {
    let room = RoomResult {
        epoch: Some("k3f9".into()),
        offset: Some(42),
        recovered: Some(true),
        filter: Some(raw("{\"x\" : 1}").to_owned()),
        ..RoomResult::new("a".into())
    };
    let lost = Refusal::new(ErrorCode::PluginFailed, "it failed");
    let text = reply::encode(
        "connected",
        Some(raw(ID)),
        Connected {
            connection: "c_8f".into(),
            session: "s_1".into(),
            resumed: true,
            principal: PrincipalInfo { id: "acme".into(), tier: "pro".into() },
            heartbeat: HeartbeatInfo { interval: 25_000, timeout: 10_000 },
            limits: ConnectionLimits { rooms: 100, message_bytes: 65_536 },
            expires: Some(1_800_000_000_000),
            time: Some(1_799_999_999_000),
            rooms: vec![room, RoomResult::refused("b", None, lost.clone())],
        },
    );
    let ServerFrame::Connected(read) = answered(&text) else { panic!("{text}") };
    assert_eq!((&*read.connection, &*read.session, read.resumed), ("c_8f", "s_1", true));
    assert_eq!(read.principal, PrincipalInfo { id: "acme".into(), tier: "pro".into() });
    assert_eq!(read.heartbeat.max_silence(), Duration::from_secs(35));
    assert_eq!(read.limits, ConnectionLimits { rooms: 100, message_bytes: 65_536 });
    assert_eq!((read.expires, read.time), (Some(1_800_000_000_000), Some(1_799_999_999_000)));
    let refreshed = Refreshed { expires: None, time: None };
    let text = reply::encode("refreshed", Some(raw(ID)), refreshed);
    assert!(matches!(answered(&text), ServerFrame::Refreshed(read) if read == refreshed), "{text}");
    let [a, b] = &read.rooms[..] else { panic!("no rooms") };
    assert_eq!(
        (&*a.room, a.epoch.as_deref(), a.offset, a.recovered),
        ("a", Some("k3f9"), Some(42), Some(true))
    );
    assert_eq!((a.filter.as_ref().unwrap().get(), &a.error), ("{\"x\" : 1}", &None));
    assert_eq!((b.status, &b.error), (None, &Some(lost.into())));
}

#[test]
fn a_client_reads_the_room_results_that_the_server_writes() {
    let refusal = Refusal::retry(ErrorCode::StoreUnavailable, "later", 250);
    let joined = RoomResult {
        status: Some(RoomStatus::Subscribed),
        requested: Some("A".into()),
        ..RoomResult::new("a".into())
    };
    let results = vec![joined, RoomResult::refused("b", Some(RoomStatus::Rejected), refusal.clone())];
    let text = reply::encode("subscribed", Some(raw(ID)), RoomResults { results });
    let ServerFrame::Subscribed(RoomResults { results }) = answered(&text) else { panic!("{text}") };
    assert_eq!(
        (results[0].status, results[0].requested.as_deref()),
        (Some(RoomStatus::Subscribed), Some("A"))
    );
    assert_eq!((results[1].status, &results[1].error), (Some(RoomStatus::Rejected), &Some(refusal.into())));

    let results: Vec<RoomResult> = vec![RoomResult::unsubscribed("a")];
    let text = reply::encode("unsubscribed", Some(raw(ID)), RoomResults { results });
    assert!(text.ends_with(r#""results":[{"room":"a","status":"unsubscribed"}]}"#), "{text}");
    let ServerFrame::Unsubscribed(RoomResults { results }) = answered(&text) else { panic!("{text}") };
    assert_eq!(results[0].status, Some(RoomStatus::Unsubscribed));
}

#[test]
fn a_client_reads_the_other_answers_that_the_server_writes() {
    for (duplicate, discarded) in [(false, false), (true, false), (false, true)] {
        let published = Published { room: "a".into(), epoch: "e".into(), offset: 9, duplicate, discarded };
        let text = reply::encode("published", Some(raw(ID)), published.clone());
        assert!(matches!(answered(&text), ServerFrame::Published(read) if read == published), "{text}");
    }
    let (room, principals) = ("a".into(), vec!["acme".into(), "zed".into()]);
    let members = MembersReply { room, count: 3, principals, more: true };
    let text = reply::encode("members", Some(raw(ID)), members.clone());
    assert!(matches!(answered(&text), ServerFrame::Members(read) if read == members), "{text}");
    let text = reply::pong(Some(raw(ID)), 1_760_000_000_123);
    assert!(matches!(answered(&text), ServerFrame::Pong(pong) if pong.time == 1_760_000_000_123));
}

#[test]
fn a_client_reads_the_messages_that_the_server_writes() {
    let data = "{\"b\" : 1.10,\t\"a\":[ \"\\u00e9\",1e3] }";
    for event in [None, Some("say \"hi\""), Some("price")] {
        let message = Publication::new("a:b".into(), "e".into(), 7, 9, event, data);
        let same = |read: &Delivery| {
            assert_eq!((&*read.room, read.offset, read.time), ("a:b", 7, 9));
            assert_eq!((read.event.as_deref(), read.data.get()), (event, data));
        };
        let (id, ServerFrame::Message(read)) = parse(message.frame().text()).unwrap() else { panic!() };
        assert_eq!(id, None);
        same(&read);

        let (room, epoch, messages) = ("a:b".into(), "e".into(), vec![Arc::new(message)]);
        let history = HistoryReply { room, epoch, messages, more: true, recovered: Some(false) };
        let text = history.encode(Some(raw(ID)));
        let ServerFrame::History(page) = answered(&text) else { panic!("{text}") };
        assert_eq!((&*page.room, &*page.epoch, page.more, page.recovered), ("a:b", "e", true, Some(false)));
        same(&page.messages[0]);
    }
    let null = Publication::new("a".into(), "e".into(), 7, 9, None, "null");
    let (_, ServerFrame::Message(read)) = parse(null.frame().text()).unwrap() else { panic!() };
    assert_eq!(read.data.get(), "null");

    let text = reply::gap("a", "e", 30);
    let (None, ServerFrame::Gap(gap)) = parse(&text).unwrap() else { panic!("{text}") };
    assert_eq!(gap, Gap { room: "a".into(), epoch: "e".into(), offset: 30 });
}

#[test]
fn a_client_reads_every_error_code_and_unknown_ones() {
    for code in ErrorCode::ALL {
        let refusal = Refusal::new(*code, "because");
        let text = reply::error(Some(raw(ID)), &refusal);
        let ServerFrame::Error(error) = answered(&text) else { panic!("{text}") };
        assert!(error.code == *code);
        assert_eq!(error, refusal.into());
        assert_eq!(error.to_string(), format!("{}: because", code.as_str()));
    }
    let newer = r#"{"code":"brand_new","message":"because","retryAfter":5}"#;
    let text = format!(r#"{{"type":"error","error":{newer}}}"#);
    let (None, ServerFrame::Error(error)) = parse(&text).unwrap() else { panic!("{text}") };
    assert_eq!((error.code.as_str(), error.retry_after), ("brand_new", Some(5)));
    assert_eq!(serde_json::to_string(&error).unwrap(), newer, "it can be passed on");
    let text =
        format!(r#"{{"type":"subscribed","results":[{{"room":"a","status":"new","error":{newer}}}]}}"#);
    let (_, ServerFrame::Subscribed(RoomResults { results })) = parse(&text).unwrap() else {
        panic!("{text}")
    };
    assert_eq!((results[0].status, &results[0].error), (Some(RoomStatus::Unknown), &Some(error)));
    assert_eq!(parse_http_error(format!(r#"{{"error":{newer}}}"#).as_bytes()).unwrap().message, "because");
    assert_eq!(parse_http_error(b"<html>"), None);
}

#[test]
fn unknown_frames_and_fields_are_no_errors_and_broken_frames_are() {
    for text in [r#"{"type":"news"}"#, r#"{"type":"news","id":[],"offset":"x","error":true}"#] {
        assert!(matches!(parse(text), Ok((None, ServerFrame::Unknown(kind))) if kind == "news"), "{text}");
    }
    assert!(parse(r#"{"type":"pong","time":1,"more":{"a":[1]}}"#).is_ok());
    for (text, kind, part) in [
        ("[]", None, "the server's frame: it does not start with '{'"),
        (r#"{"id":1}"#, None, "missing field `type`"),
        (r#"{"type":"gap","room":"a"}"#, Some("gap"), "the gap frame: the field 'epoch' is missing"),
        (r#"{"type":"message","offset":"x"}"#, Some("message"), "the message frame: invalid type"),
        (r#"{"type":"connected"}"#, Some("connected"), "missing field `connection`"),
    ] {
        let Err(error) = parse(text) else { panic!("{text}") };
        assert_eq!(error.kind.as_deref(), kind, "{text}");
        assert!(error.to_string().contains(part), "{text}: {error}");
    }
}

#[test]
fn a_close_reason_fits_a_close_frame() {
    for close in [Close::FrameTooLarge, Close::HeartbeatTimeout, Close::Draining(u32::MAX)] {
        assert!(close.reason().len() <= 123, "{close:?}");
    }
}
