"""A model in evaluation is exported by PyTorch once for every number of rows."""

import pytest
import torch

from tests.mealrec.small import make_batch, make_model

SWITCHES = [
    {"frames": 0, "width": 0},
    {"frames": 0, "width": 0, "npd__sampler": "ddpm"},
    {"frames": 0, "width": 0, "backbone__name": "gru4rec"},
    {"frames": 0, "width": 0, "backbone__name": "nextitnet"},
    {"tcd__guidance": 0.5, "tcd__eta": 0.5, "tcd__target": "video", "tcd__temporal_guidance": False},
]
FIELDS = ("sample_id", "item", "offset", "features", "frames", "feature_row")


class Preference(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        return self.model.preference(batch | {"real_index": torch.arange(batch["item"].numel())}, 2)


def batch_of(model, lengths):
    batch = make_batch(lengths=lengths)
    return {name: batch[name] for name in FIELDS if model.config.has_video or name in FIELDS[:3]}


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # the GRU's weights, which are used as they are
@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_one_graph_for_any_number_of_rows(switch):
    model = make_model(kernel="reference", **switch).eval()
    rows, distinct = torch.export.Dim("rows"), torch.export.Dim("distinct")
    batch = batch_of(model, (8, 5, 1))
    sizes = {name: {0: distinct if name in ("features", "frames") else rows} for name in batch}
    preference = Preference(model)
    with torch.no_grad():
        graph = torch.export.export(preference, (batch,), dynamic_shapes=(sizes,)).module()
        for lengths in [(8,), (3, 8), (8, 7, 6, 5, 4, 3, 2, 1, 8, 8, 8)]:
            other = batch_of(model, lengths)
            torch.testing.assert_close(graph(other), preference(other))
        # Tracing leaves nothing behind that the model itself would then use.
        assert type(model.preference(batch)) is torch.Tensor
