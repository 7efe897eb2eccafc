#[derive(clap::Args)]
pub struct PublishArgs {}
pub async fn run(_: PublishArgs) -> anyhow::Result<()> {
    anyhow::bail!("placeholder")
}
