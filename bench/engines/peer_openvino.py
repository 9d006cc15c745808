"""OpenVINO GenAI with 8-bit weights, using its own pipeline and its own timings."""

import numpy
import openvino
import openvino_genai
from protocol import serve, tokens

VOCAB = 32000


class Engine:
    PER_BATCH = False

    def __init__(self, model, threads, room, batch):
        # The pipeline's fastest mode, paged attention. A prefix cache would skip the work to be timed.
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        scheduler.max_num_batched_tokens = 4096
        options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self.pipe = openvino_genai.LLMPipeline(
            model, "CPU", scheduler_config=scheduler, **options
        )
        self.vocab = VOCAB
        self.prompt = []

    def forget(self):
        self.prompt = []

    def generate(self, batch, n):
        ids = numpy.array([self.prompt] * batch, dtype=numpy.int64)
        inputs = openvino_genai.TokenizedInputs(
            openvino.Tensor(ids), openvino.Tensor(numpy.ones_like(ids))
        )
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = n, True, False
        return self.pipe.generate(inputs, config)

    def context(self, ids, batch):
        """Only remembers the prompt: the pipeline computes it when it generates, in `decode`."""
        self.prompt = list(ids)

    def prefill(self, ids, batch):
        self.context(ids, batch)
        self.generate(batch, 1)

    def decode(self, n, batch):
        result = self.generate(batch, n + 1)
        # Microseconds per pass, beginning with those of the prompt.
        passes = list(result.perf_metrics.raw_metrics.token_infer_durations)
        return sum(passes[-n:]) / 1e6


serve(Engine)
