//! Whose turn it is to be asked about, across shards.

use super::*;
use crate::{
    hub::{
        Connection, JoinAnswer, JoinRequest,
        command::ShardCommand,
        router::{Router, ShardHandle},
    },
    outbox::tests::TestPipe,
};
use std::{thread, time::Duration};
use switchyard_protocol::{Refusal, room::RoomPattern};
use tokio::sync::{mpsc, oneshot};

type Answer = oneshot::Receiver<Result<JoinAnswer, Refusal>>;

/// The rooms of a plugin, and what its two shards receive.
struct Fixture {
    /// Forwards what has waited.
    _router: Arc<Router>,
    rooms: Arc<GovernedRooms>,
    received: [mpsc::UnboundedReceiver<ShardCommand>; 2],
    /// A room of each shard.
    names: [RoomName; 2],
    acme: Arc<str>,
}

impl Fixture {
    fn new() -> Self {
        let [(one, first), (two, second)] = [(); 2].map(|()| mpsc::unbounded_channel());
        let router = Arc::new(Router::new(vec![ShardHandle::new(one.clone(), None)]));
        let rooms = |slot| Arc::new(GovernedRooms::new(slot, "g", Arc::downgrade(&router)));
        let (slot, shards) = router.add_slot(rooms, |rooms| ShardHandle::new(one, Some(rooms.clone())));
        let (rooms, _) = router.slot_shards(slot).unwrap();
        let shards = [shards[0], router.add_shard(ShardHandle::new(two, Some(rooms.clone())))];
        router.set_shards(slot, shards.into());
        let patterns = [RoomPattern::try_from("g:*".to_owned()).unwrap()].into();
        router.close_changing(router.with_slots(vec![(slot, patterns)]));
        router.hand_over();
        let named = |shard| {
            let mut names = (0..).map(|n| RoomName::parse(&format!("g:{n}")).unwrap());
            names.find(|name| router.owner(name) == shard).unwrap()
        };
        let names = shards.map(named);
        Self { _router: router, rooms, received: [first, second], names, acme: "acme".into() }
    }

    /// Begins to ask about acme on a shard, on behalf of a new join.
    fn join(&self, shard: usize) -> (Option<(PolicyRequest, Question)>, Answer) {
        let (reply, answer) = oneshot::channel();
        let request = JoinRequest {
            room: self.names[shard].clone(),
            connection: Connection::detached(TestPipe::new(0)),
            filter: None,
            since: None,
            buffer: false,
            offer: false,
        };
        let request = PolicyRequest::Join { request, is_granted: None, canonical: None, turn: None, reply };
        (self.begin(request), answer)
    }

    fn begin(&self, request: PolicyRequest) -> Option<(PolicyRequest, Question)> {
        self.rooms.begin_question(request, &self.acme)
    }

    /// The request that came back to a shard.
    fn returned(&mut self, shard: usize) -> Option<PolicyRequest> {
        loop {
            if let ShardCommand::Request(request) = self.received[shard].try_recv().ok()? {
                return Some(request);
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.rooms.places.lock().asking.is_empty()
    }
}

#[test]
fn questions_about_a_principal_are_asked_one_after_another_in_order() {
    let mut shards = Fixture::new();
    let (first, _answer) = shards.join(0);
    assert!(first.is_some());
    let (gone, answer) = shards.join(0);
    assert!(gone.is_none(), "it waits for the first");
    drop(answer);
    let mut answers = vec![];
    for shard in [1, 0, 1] {
        let (begun, answer) = shards.join(shard);
        assert!(begun.is_none());
        answers.push(answer);
    }
    let other = Arc::from("zed");
    assert!(shards.rooms.begin_urgent_question(&other, Instant::now()).is_some(), "others do not wait");
    drop(first);
    // The client of this one has gone, which its shard notices.
    drop(shards.returned(0).expect("its turn"));
    for shard in [1, 0, 1] {
        let request = shards.returned(shard).expect("its turn");
        let begun = shards.begin(request);
        assert!(begun.is_some());
        let (faster, answer) = shards.join(1 - shard);
        assert!(faster.is_none(), "nobody is faster");
        answers.push(answer);
    }
    for shard in [0, 1, 0] {
        assert!(shards.returned(shard).and_then(|request| shards.begin(request)).is_some());
    }
    assert!(shards.is_idle());
}

#[test]
fn a_turn_that_is_not_used_is_passed_on() {
    let mut shards = Fixture::new();
    let (first, _first) = shards.join(0);
    let waiting: Vec<_> = [0, 1, 1].map(|shard| shards.join(shard).1).into();
    drop(first);
    drop(shards.returned(0).expect("its turn"));
    // The shard ends, and with it the turn of the next one.
    let request = shards.returned(1).expect("its turn");
    shards.received[1].close();
    drop(request);
    assert!(shards.is_idle(), "nobody is left");
    assert!(waiting.into_iter().all(|mut answer| answer.try_recv().is_err()));
    let (again, _again) = shards.join(0);
    assert!(again.is_some());
}

#[test]
fn a_handover_waits_for_the_question_that_is_being_asked_and_for_none_that_waits() {
    let mut shards = Fixture::new();
    let (first, _first) = shards.join(0);
    let (waits, _second) = shards.join(1);
    assert!(waits.is_none());
    let soon = Instant::now() + Duration::from_millis(5);
    assert!(shards.rooms.begin_urgent_question(&shards.acme, soon).is_none());
    let (rooms, acme) = (shards.rooms.clone(), shards.acme.clone());
    let until = Instant::now() + Duration::from_secs(10);
    let judge = move || rooms.begin_urgent_question(&acme, until).expect("in time");
    let judging = thread::Builder::new().spawn(judge).unwrap();
    drop(first);
    let question = judging.join().unwrap();
    // The second one has its turn, but was not as fast.
    let request = shards.returned(1).expect("its turn");
    assert!(shards.begin(request).is_none());
    drop(question);
    let request = shards.returned(1).expect("its turn again");
    assert!(shards.begin(request).is_some());
    assert!(shards.is_idle());
}
