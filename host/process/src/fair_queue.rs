//! A queue in which principals take turns, so that a principal with many items delays itself and hardly
//! anybody else. Owns the items, not the time that a turn may take.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// Waiting items, in one queue for each principal. Principals are served in turn, each for as long as the
/// caller decides.
pub struct FairQueue<T> {
    items: HashMap<Arc<str>, VecDeque<T>>,
    /// Principals in the order of their turns. Each one that has items is here once.
    order: VecDeque<Arc<str>>,
    len: usize,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { items: HashMap::new(), order: VecDeque::new(), len: 0 }
    }
}

impl<T> FairQueue<T> {
    /// All items: those of one principal in order, the principals in any order.
    pub fn into_items(self) -> impl Iterator<Item = T> {
        self.items.into_values().flatten()
    }

    /// Whether no items are waiting.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The number of items of all principals.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The principals that have items, in the order of their turns.
    pub fn principals(&self) -> impl Iterator<Item = &Arc<str>> {
        self.order.iter()
    }

    /// The principal whose turn is next.
    pub fn next_principal(&self) -> Option<&Arc<str>> {
        self.order.front()
    }

    /// Appends an item to those of a principal. A principal that had none is the last in turn.
    pub fn push(&mut self, principal: Arc<str>, item: T) {
        self.len += 1;
        if let Some(items) = self.items.get_mut(&principal) {
            items.push_back(item);
            return;
        }
        self.order.push_back(principal.clone());
        self.items.insert(principal, VecDeque::from([item]));
    }

    /// Puts an item before those of a principal. A principal that had none is the last in turn.
    pub fn push_front(&mut self, principal: Arc<str>, item: T) {
        self.push(principal.clone(), item);
        if let Some(items) = self.items.get_mut(&principal) {
            items.rotate_right(1);
        }
    }

    /// Serves the principal whose turn is next, and returns it: `serve` gets one item after the other until
    /// it ends the turn or no items are left. If items are left, the principal is then the last in turn.
    pub fn serve_next(&mut self, serve: impl FnMut(T) -> TurnStep<T>) -> Option<Arc<str>> {
        self.serve_next_where(|_| true, serve)
    }

    /// Like [`serve_next`](Self::serve_next), but passes over principals that are not `eligible`. They keep
    /// their place.
    pub fn serve_next_where(
        &mut self,
        eligible: impl Fn(&Arc<str>) -> bool,
        mut serve: impl FnMut(T) -> TurnStep<T>,
    ) -> Option<Arc<str>> {
        let at = self.order.iter().position(eligible)?;
        let principal = self.order.remove(at)?;
        let items = self.items.get_mut(&principal).expect("a principal in the order has items");
        while let Some(item) = items.pop_front() {
            self.len -= 1;
            match serve(item) {
                TurnStep::Continue => {}
                TurnStep::End => break,
                TurnStep::EndWithRest(rest) => {
                    self.len += 1;
                    items.push_front(rest);
                    break;
                }
            }
        }
        match items.is_empty() {
            true => drop(self.items.remove(&principal)),
            false => self.order.push_back(principal.clone()),
        }
        Some(principal)
    }
}

/// How a turn continues after an item.
pub enum TurnStep<T> {
    /// The item is done; the turn continues with the next one.
    Continue,
    /// The item is done, and the turn is over.
    End,
    /// The turn is over, and this is the rest of the item. The principal's next turn begins with it.
    EndWithRest(T),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_with_few_items_does_not_wait_for_one_with_many() {
        let mut queue = FairQueue::default();
        for n in 0..1000 {
            queue.push("mallory".into(), n);
        }
        queue.push("acme".into(), 5000);
        queue.push("zed".into(), 6000);
        let mut served = vec![];
        for _ in 0..4 {
            let mut left = 3;
            queue.serve_next(|item| {
                served.push(item);
                left -= 1;
                if left == 0 { TurnStep::End } else { TurnStep::Continue }
            });
        }
        assert_eq!(served, [0, 1, 2, 5000, 6000, 3, 4, 5]);
        assert_eq!(queue.len(), 1002 - served.len());
    }

    #[test]
    fn an_item_can_be_put_before_the_others_of_its_principal() {
        let mut queue = FairQueue::default();
        for (principal, item) in [("acme", 2), ("zed", 3)] {
            queue.push(principal.into(), item);
        }
        queue.push_front("acme".into(), 1);
        let mut served = vec![];
        while queue
            .serve_next(|item| {
                served.push(item);
                TurnStep::Continue
            })
            .is_some()
        {}
        assert_eq!((served, queue.len()), (vec![1, 2, 3], 0));
    }

    #[test]
    fn the_rest_of_an_item_comes_first_in_the_next_turn() {
        let mut queue = FairQueue::default();
        queue.push("mallory".into(), 10);
        queue.push("mallory".into(), 1);
        queue.push("acme".into(), 2);
        let mut served = vec![];
        while !queue.is_empty() {
            queue.serve_next(|item: u32| {
                served.push(item);
                if item > 8 { TurnStep::EndWithRest(item - 1) } else { TurnStep::End }
            });
        }
        assert_eq!(served, [10, 2, 9, 8, 1]);
        assert_eq!(queue.len(), 0);
        assert!(queue.items.is_empty(), "a principal without items takes no memory");
    }
}
