//! What the demo prints for its user: where to look, and what to try.

use crate::{
    child::ChildProcess,
    files::{DemoFiles, Keys},
    node::NodeAddresses,
};

pub struct Guide<'a> {
    pub files: &'a DemoFiles,
    pub keys: &'a Keys,
    pub nodes: &'a [NodeAddresses],
}

impl Guide<'_> {
    pub fn print_for_one_node(&self) {
        self.print_node(0);
        println!("      (Ctrl-C ends everything)");
    }

    pub fn print_for_several_nodes(&self, processes: &[ChildProcess], redis_port: u16) {
        for (index, process) in processes.iter().enumerate() {
            println!("{}, pid {}", process.name(), process.id());
            self.print_node(index);
            println!("\n");
        }
        println!("the shared Redis:     redis-cli -p {redis_port}");
        if let [first, ..] = processes {
            println!("kill {}:          kill -9 {}", first.name(), first.id());
            println!(
                "and watch its page continue on the next node, in the same session (Ctrl-C ends everything)"
            );
        }
    }

    /// The URL of the page lists all nodes, so that the page can continue on the next one.
    fn print_node(&self, index: usize) {
        let urls: Vec<_> = self.nodes.iter().map(|node| node.url.as_str()).collect();
        let (earlier, from_this) = urls.split_at(index);
        let NodeAddresses { url, admin } = &self.nodes[index];
        let (key, listen) = (&self.keys.watcher, self.files.program("switchyard"));
        println!("watch in a browser:   {}", self.files.page_url(&[from_this, earlier].concat(), key));
        println!(
            "or from a terminal:   SWITCHYARD_KEY={key} {} listen --url {url} tvl_changes --filter '{{\"minChange\":0.05}}'",
            listen.get_program().display(),
        );
        print!("metrics:              {admin}/metrics");
    }
}
