"""The forms by which the Prefect UI makes blocks."""

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient


async def show_form_of(client: PrefectClient, kind: type[Block]) -> None:
    """Have the UI make blocks of a kind by the form of the package that is installed.

    Prefect's server brings forms for some packages, and the UI shows the one registered last: in
    3.8.8 one of prefect-aws 0.4.14, in which AWS Credentials have no role. A form that some block
    was made by stays.
    Source: prefect/server/collection_blocks_data.json
    """
    await kind.aregister_type_and_schema(client=client)
    slug = kind.get_block_type_slug()
    type_id = (await client.read_block_type_by_slug(slug)).id
    made = await client.read_block_documents_by_type(slug, include_secrets=False)
    used = {document.block_schema_id for document in made}
    while shown := await client.get_most_recent_block_schema_for_block_type(type_id):
        if shown.id in used or set(shown.fields["properties"]) >= set(kind.model_fields):
            return
        await client.request("DELETE", "/block_schemas/{id}", path_params={"id": shown.id})
