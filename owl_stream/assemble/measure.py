"""What a sample will cost, without decoding a pixel: indexing calls this for every sample of every shard."""

from __future__ import annotations

from dataclasses import dataclass

from owl_stream.assemble.encode import Encoder
from owl_stream.assemble.kept import pack
from owl_stream.assemble.tokenizer import TokenizerFile
from owl_stream.layouts.recipe import Recipe
from owl_stream.shards import Cost, Measure, Sample


@dataclass(frozen=True)
class Measurer:
    """Makes the measure of one recipe; picklable, called once in every indexing process."""

    recipe: Recipe
    tokenizer: TokenizerFile
    keep_rows: bool = False

    def __call__(self) -> Measure:
        """Sample -> Cost, which holds the encoded sample too if `keep_rows`.

        The measure raises SampleError for what cannot become a row.
        """
        encoder = Encoder(self.recipe, self.tokenizer.build())

        def measure(sample: Sample) -> Cost:
            encoded = encoder.encode(sample)
            kept = pack(encoded, sample.offset) if self.keep_rows else b""
            return Cost(encoded.row.size, kept, encoded.notes)

        return measure
