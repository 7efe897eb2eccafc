//! What the demo says to the person in front of it: where to look, and what to try.

use crate::{
    child::Child,
    node::Addresses,
    place::{Keys, Place},
};

pub struct Guide<'a> {
    pub place: &'a Place,
    pub keys: &'a Keys,
    pub nodes: &'a [Addresses],
}

impl Guide<'_> {
    pub fn of_one_node(&self) {
        self.show(0);
        println!("      (Ctrl-C ends everything)");
    }

    pub fn of_several(&self, processes: &[Child], redis: u16) {
        for (index, process) in processes.iter().enumerate() {
            println!("{}, pid {}", process.name(), process.id());
            self.show(index);
            println!("\n");
        }
        println!("what they share:      redis-cli -p {redis}");
        if let [first, ..] = processes {
            println!("end {}:           kill -9 {}", first.name(), first.id());
            println!("and see its page go on at the next node, in the same session (Ctrl-C ends everything)");
        }
    }

    /// The page goes on at the nodes after its own.
    fn show(&self, index: usize) {
        let urls: Vec<_> = self.nodes.iter().map(|node| node.url.as_str()).collect();
        let (before, from) = urls.split_at(index);
        let Addresses { url, admin } = &self.nodes[index];
        let (key, listen) = (&self.keys.watcher, self.place.program("switchyard"));
        println!("watch in a browser:   {}", self.place.page(&[from, before].concat(), key));
        println!(
            "or from a terminal:   SWITCHYARD_KEY={key} {} listen --url {url} tvl_changes --filter '{{\"minChange\":0.05}}'",
            listen.get_program().display(),
        );
        print!("metrics:              {admin}/metrics");
    }
}
