//! What waits, in turns by principal: one that asks much waits for itself, and hardly anybody else for it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

pub struct Turns<T> {
    waiting: HashMap<Arc<str>, VecDeque<T>>,
    /// Whose turn comes when; each who waits is here once.
    order: VecDeque<Arc<str>>,
    len: usize,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), order: VecDeque::new(), len: 0 }
    }
}

impl<T> Turns<T> {
    /// All that waits, each principal's in order.
    pub fn into_all(self) -> impl Iterator<Item = T> {
        self.waiting.into_values().flatten()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Of all principals.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Who waits, in the order of their turns.
    pub fn waiting(&self) -> impl Iterator<Item = &Arc<str>> {
        self.order.iter()
    }

    /// Whose turn is next.
    pub fn next(&self) -> Option<&Arc<str>> {
        self.order.front()
    }

    /// Behind all that this principal asked before.
    pub fn push(&mut self, who: Arc<str>, question: T) {
        self.len += 1;
        if let Some(waiting) = self.waiting.get_mut(&who) {
            waiting.push_back(question);
            return;
        }
        self.order.push_back(who.clone());
        self.waiting.insert(who, VecDeque::from([question]));
    }

    /// One turn of the principal that waits for longest: `serve` is given its questions until it says that the turn is over,
    /// with what is left of the last one. Whose turn it was.
    pub fn take(&mut self, serve: impl FnMut(T) -> Served<T>) -> Option<Arc<str>> {
        self.take_of(|_| true, serve)
    }

    /// The same among those that may have one.
    pub fn take_of(
        &mut self,
        may: impl Fn(&Arc<str>) -> bool,
        mut serve: impl FnMut(T) -> Served<T>,
    ) -> Option<Arc<str>> {
        let at = self.order.iter().position(may)?;
        let who = self.order.remove(at)?;
        let waiting = self.waiting.get_mut(&who).expect("who is in the order waits");
        while let Some(question) = waiting.pop_front() {
            self.len -= 1;
            match serve(question) {
                Served::Whole => {}
                Served::Last => break,
                Served::Part(rest) => {
                    self.len += 1;
                    waiting.push_front(rest);
                    break;
                }
            }
        }
        match waiting.is_empty() {
            true => drop(self.waiting.remove(&who)),
            false => self.order.push_back(who.clone()),
        }
        Some(who)
    }
}

/// How a question fared.
pub enum Served<T> {
    Whole,
    /// It was answered, and the turn is over.
    Last,
    /// The turn is over, and this is left of it.
    Part(T),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_little_is_served_among_those_who_ask_much() {
        let mut turns = Turns::default();
        for n in 0..1000 {
            turns.push("mallory".into(), n);
        }
        turns.push("acme".into(), 5000);
        turns.push("zed".into(), 6000);
        let mut served = vec![];
        for _ in 0..4 {
            let mut left = 3;
            turns.take(|question| {
                served.push(question);
                left -= 1;
                if left == 0 { Served::Last } else { Served::Whole }
            });
        }
        assert_eq!(served, [0, 1, 2, 5000, 6000, 3, 4, 5]);
        assert_eq!(turns.len(), 1002 - served.len());
    }

    #[test]
    fn what_is_left_of_a_question_comes_first_in_the_next_turn() {
        let mut turns = Turns::default();
        turns.push("mallory".into(), 10);
        turns.push("mallory".into(), 1);
        turns.push("acme".into(), 2);
        let mut served = vec![];
        while !turns.is_empty() {
            turns.take(|question: u32| {
                served.push(question);
                if question > 8 { Served::Part(question - 1) } else { Served::Last }
            });
        }
        assert_eq!(served, [10, 2, 9, 8, 1]);
        assert_eq!(turns.len(), 0);
        assert!(turns.waiting.is_empty(), "nothing is kept of who waits no more");
    }
}
