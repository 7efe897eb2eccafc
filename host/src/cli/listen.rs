#[derive(clap::Args)]
pub struct ListenArgs {}
pub async fn run(_: ListenArgs) -> anyhow::Result<()> {
    anyhow::bail!("placeholder")
}
