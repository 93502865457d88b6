"""The spine of a conversion: a trained model goes in, a verified artifact comes out, or an error and no file.

    identify > load > survey > lower > repair > calibrate > (lift >) quantize > verify
    > assemble > gate > replay > write

Each stage appears once, in order, in `run`. Whatever parses or runs a model does so in one of two child processes
(`edgekit.converters.jobs` says which and why); this process reads only what the children answer, and files with the
standard library. The file appears under its final name only after verification, the device gate and the self-test on
the target have passed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import artifact as artifacts
from edgekit import data_given, files, lifting, metadata, saturation
from edgekit import rules as layer_rules
from edgekit.artifact import Artifact
from edgekit.child import Limits
from edgekit.conversion import Conversion, about, unique, with_embedding
from edgekit.converters import fold, loaders, repairs
from edgekit.converters.describing import Described
from edgekit.converters.repairs.mend import Mended, Wanted
from edgekit.converters.repairs.repair import Report
from edgekit.converters.sources import check_signature, identify, identify_live, lowering_for
from edgekit.converters.stages import CalibrationOptions, Graph, LoadedFacts, QuantizeOptions, Ranges, Source
from edgekit.converters.waiting import Waiting
from edgekit.converters.worker import Workshop
from edgekit.data_ref import DataRef
from edgekit.early import Begun
from edgekit.errors import ConversionError, UnsafeSourceError, UsageError
from edgekit.manifest import Interpret, Preprocess
from edgekit.options import Options
from edgekit.precision import FormatRules, Precision, precisions

if TYPE_CHECKING:
    from edgekit.converters.jobs import Survey
    from edgekit.converters.verification.jobs import Recording
    from edgekit.device_profiles import Profile
    from edgekit.gate import Verdict
    from edgekit.targets.agent import Replayed

Progress = Callable[[dict[str, Any]], None]

_EVENS = "bias-correction"
"""The repair that has its end when ranges are final, see `repairs.ends`."""


def convert(source: Any, *, to: str | None = None, output: str | Path | None = None, **options: Any) -> Artifact:
    """Convert a trained model and prove that the result gives its answers.

    Args:
        source: Path of a `.keras`, `.h5`, `.onnx` or `.tflite` file, of PyTorch weights (with `model` and `shapes`) or
            of a SavedModel folder, a `.skops`, `.joblib` or `.pkl` file of an estimator; or a live Keras model,
            `tf.Module`, `nn.Module` (with `shapes`), ExportedProgram, estimator, XGBoost or LightGBM model, ONNX
            ModelProto, or the bytes of an ONNX or TFLite file.
        to: "tflite" or "onnx"; may be left out when `output` has that suffix.
        output: Where to write the artifact; the result holds it in memory either way.
        **options: The fields of `Options`: `precision`, `device`, `calibration`, `evaluation`, `max_drop`, ...

    Returns:
        The artifact; `artifact.write(path)` keeps it, `edgekit.load(artifact)` runs it.

    Raises:
        EdgeKitError: See the classes in `edgekit.errors`: what is wrong, why, and what to do.

    What `edgekit convert` prints as warnings goes to the logger `edgekit`, which writes to standard error unless the
    program says otherwise.

    Example:
        artifact = edgekit.convert("model.keras", to="tflite", precision="int8", calibration="train.npz",
                                   evaluation="test.npz", device="raspberry-pi-4b")
    """
    known = Options.__dataclass_fields__
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError("option-unknown", f"convert() takes no {', '.join(unknown)}; known: {', '.join(known)}")
    done = run(source, Options(to=to, output=Path(output) if output else None, **options))
    for warning in done.warnings:
        logging.getLogger("edgekit").warning("%s", warning)
    return done.artifact


def run(
    model: Any,
    options: Options,
    progress: Progress | None = None,
    waiting: Waiting | None = None,
    watched: tuple[Any, Any] | None = None,
    begun: Begun | None = None,
) -> Conversion:
    """The spine; see the module header. `waiting` keeps the child processes for the next run of the same source;
    `watched`: evaluation and calibration data that monitors go by, where they are not the options'; `begun`: children.
    """
    precision = precisions.get(options.precision)
    rules = precision.rules(options.format)
    options, profile = _for_device(options, precision)
    wanted, observing = _wanted(options, precision), _observing(options, precision)
    quantizing, said = (
        _quantizing(options, precision, rules),
        metadata.read(options.metadata, options.labels, options.task),
    )
    with Workshop(Limits(options.time_limit, options.memory_limit), progress, waiting, begun) as shop:
        with shop.stage("identify"):
            source = identified(model, options, shop.scratch)
            lowering = lowering_for(source.kind, options.format)
            _check_ends(model, options)
            shop.start(loaders.get(source.kind).PRELOAD, options.format, quantizes=precision.name != "fp32")
        with shop.stage("load"):
            facts = shop.load(source).as_held(precision)
            _check_facts(facts, options, precision)
            said = metadata.complete(
                _over_own(said, source, facts, options), facts.outputs, label=options.label,
                class_names=facts.classes, answer=facts.answer, task=facts.task, inputs=facts.inputs,
            )  # fmt: skip
        with shop.stage("survey"):
            calibration = data_given.locate(options.calibration, options, facts, said, shop.scratch / "calibration")
            evaluation = data_given.locate(options.evaluation, options, facts, said, shop.scratch / "evaluation")
            data_given.require_calibration(calibration, precision)
            survey = shop.survey(facts, calibration, evaluation, options.seed, precision.activations)
            data_given.enforce_lint(survey)
            said = metadata.complete(
                said, facts.outputs, label=options.label, class_names=survey.class_names, inputs=facts.inputs
            )
        with shop.stage("lower"):
            lowered = graph = shop.seek(
                shop.lower(lowering, *options.lowering(said.preprocess, precision)),
                options.embedding,
                said,
                facts.modules,
            )
        shop.start_answering(facts, survey)
        with shop.stage("repair"):
            given, calibration = calibration, calibration if precision.calibrated else None
            mended, graph, quantizing = _mend(shop, graph, facts, calibration, wanted, precision, quantizing, observing)
        with shop.stage("calibrate"):
            ranges = (
                None
                if calibration is None
                else shop.observe(
                    graph,
                    facts,
                    calibration,
                    observing,
                    precision.name,
                    quantizing,
                    survey if options.resume else None,
                    even=_EVENS in wanted.names and _comparable(facts),
                )
            )
        with shop.stage("settle"):
            graph, reports = _settle(shop, mended, graph, facts, calibration, wanted, ranges, precision, quantizing)
        judge = partial(
            shop.verify,
            facts=facts,
            survey=survey,
            said=said,
            calibration=calibration,
            max_drop=options.max_drop,
            threads=options.threads,
        )
        if rules.lifts and ranges is not None:
            with shop.stage("lift"):
                graph, quantizing = lifting.lift(
                    shop, graph, mended.unrounded, ranges, quantizing, judge, options, survey, facts
                )
        with shop.stage("quantize"):
            graph, embedding = shop.expose(shop.quantize(graph, ranges, precision.name, quantizing))
        with shop.stage("verify"):
            graph, verification = with_embedding(
                graph, shop.paced(judge(graph), lowered, graph, facts, survey), embedding
            )
            verification.enforce(survey.warnings)
        with shop.stage("assemble"):
            recording, described = _recorded(
                shop, graph, facts, survey,
                data_given.watched(watched, options, facts, said, shop.scratch) or (evaluation, given),
                said.preprocess, verification.interpret, options,
            )  # fmt: skip
            artifact = artifacts.assemble(
                graph.format,
                Path(graph.path).read_bytes(),
                about(
                    source,
                    facts,
                    graph,
                    survey,
                    verification,
                    recording,
                    fold.left(said.preprocess, graph),
                    options,
                    reports,
                ),
                recording.selftest,
                described.content if described else None,
            )
        with shop.stage("gate"):
            verdict = None if profile is None else _gate(artifact, profile)
        with shop.stage("replay"):
            replayed = None if options.target is None else _replay(artifact, options.target, shop.scratch)
        artifact = _written(shop, artifact, options.output)
    return Conversion(
        *(artifact, source, graph, verification, verdict, replayed, tuple(shop.seconds)),
        unique(chain(facts.notes, graph.notes, rules.notes, survey.warnings, verification.warnings, _advice(verdict))),
        reports,
        described,
    )


def _recorded(
    shop: Workshop,
    graph: Graph,
    facts: LoadedFacts,
    survey: Survey,
    data: tuple[DataRef | None, DataRef | None],
    preprocess: Preprocess,
    interpret: Interpret,
    options: Options,
) -> tuple[Recording, Described | None]:
    """The self-test, and what evaluation and calibration data looked like, where there is any and it is wanted.

    A monitor counts samples along a batch, which not every model has.
    """
    recording = shop.record(graph, facts, survey, options.seed)
    if not options.reference or data == (None, None) or facts.samples != facts.inputs:
        return recording, None
    return recording, shop.describe_data(graph, facts, *data, (fold.left(preprocess, graph), interpret))


def _written(shop: Workshop, artifact: Artifact, output: Path | None) -> Artifact:
    if output is None:
        return artifact
    with shop.stage("write"):
        return artifact.write(output)


def _advice(verdict: Verdict | None) -> tuple[str, ...]:
    return verdict.advice if verdict else ()


def _mend(
    shop: Workshop,
    graph: Graph,
    facts: LoadedFacts,
    calibration: DataRef | None,
    wanted: Wanted,
    precision: Precision,
    quantizing: QuantizeOptions,
    observing: CalibrationOptions,
) -> tuple[Mended, Graph, QuantizeOptions]:
    # Answers of a size that only a run tells cannot be compared value by value, and repairs cut samples along a batch.
    if calibration is None or not wanted.names or not _comparable(facts):
        return Mended(graph, (), (), graph), graph, quantizing
    mended = shop.mend(graph, facts, calibration, wanted, precision.name, quantizing, observing)
    mended = mended.told()
    return mended, mended.graph, replace(quantizing, rules=(*quantizing.rules, *mended.rules))


def _comparable(facts: LoadedFacts) -> bool:
    return not facts.ragged and facts.samples == facts.inputs


def _settle(
    shop: Workshop,
    mended: Mended,
    graph: Graph,
    facts: LoadedFacts,
    calibration: DataRef | None,
    wanted: Wanted,
    ranges: Ranges | None,
    precision: Precision,
    quantizing: QuantizeOptions,
) -> tuple[Graph, tuple[Report, ...]]:
    """Repairs that go by the chosen ranges, under the same conditions as those before; and what became of all."""
    names = repairs.of_kind(wanted.names, "engine")
    if calibration is None or ranges is None or not names or not _comparable(facts):
        return graph, mended.reports
    settled = shop.settle(graph, mended.unrounded, facts, calibration, names, ranges, precision.name, quantizing)
    return settled.graph, (*mended.reports, *settled.reports)


def identified(model: Any, options: Options, scratch: Path) -> Source:
    """What the user's model is; a live object is written into `scratch`.

    Raises:
        UsageError: `signature-unknown`. UnsafeSourceError: `trust-mismatch`. EdgeKitError: As `sources.identify`.
    """
    live = not isinstance(model, (str, Path))
    path = identify_live(model, scratch, options.shapes, options.dtypes) if live else Path(model)
    # A live object already runs in the caller's process: its code is the caller's own.
    trusted = live or bool(options.trust)
    source = identify(
        path,
        signature=options.signature,
        shapes=dict(options.shapes),
        trusted=trusted,
        dtypes=options.dtypes,
        model=options.model,
    )
    check_signature(source.kind, options.signature)
    demanding = getattr(loaders.get(source.kind), "demands_digest", None)
    if options.trust is True and not live and demanding is not None and demanding(path):
        source = replace(source, trusted=False)
    if isinstance(options.trust, str) and options.trust.lower() != source.sha256:
        raise UnsafeSourceError(
            "trust-mismatch", f"{path} has the digest {source.sha256}, not the trusted {options.trust}"
        )
    return source


def _over_own(said: metadata.Metadata, source: Source, facts: LoadedFacts, options: Options) -> metadata.Metadata:
    """What was said, and can be done, over what an artifact of ours says of itself."""
    if not options.fold_preprocess:
        metadata.check_inputs(said.preprocess, facts.inputs)
    own = metadata.carried(source.path, facts.outputs) if source.kind in ("tflite", "onnx") else None
    return said if own is None else metadata.read(options.metadata, options.labels, options.task, own)


def _check_ends(model: Any, options: Options) -> None:
    """Before minutes of work: can the file be written at all, and is there anybody to replay it?"""
    files.check_outputs((options.output,), (model, *options.inputs))
    if options.target is not None:
        from edgekit.targets import open_target

        open_target(options.target).close()


def _check_facts(facts: LoadedFacts, options: Options, precision: Precision) -> None:
    _refuse_requantization(facts, precision)
    known = {spec.name: spec for spec in facts.inputs}
    for name, dtype in options.dtypes.items():
        if name not in known:
            raise UsageError("input-unknown", f"no input is called {name!r}; known: {', '.join(known)}")
        if known[name].dtype != dtype:
            raise UsageError("dtype-conflict", f"the input {known[name].describe()} is not {dtype}")


def _refuse_requantization(facts: LoadedFacts, precision: Precision) -> None:
    if facts.quantized and precision.weights != "float32":
        raise ConversionError(
            "source-quantized",
            f"the source is quantized already: it cannot be made {precision.name} again",
            source=facts.framework,
        )


def _observing(options: Options, precision: Precision) -> CalibrationOptions:
    from edgekit.converters.calibration import observers

    if options.observer is not None:
        observers.factory(options.observer)
    return CalibrationOptions(
        observer=options.observer or precision.observer,
        percentile=options.percentile,
        memory_mb=options.calibration_memory,
        threads=options.threads,
        activations="int16" if precision.activations == "int16" else "int8",
    )


def _wanted(options: Options, precision: Precision) -> Wanted:
    wanted = Wanted(*repairs.choose(options.repairs, precision.repairs))
    if wanted.demanded and not precision.calibrated:
        raise UsageError("repair-precision", f"repairs need calibration, and {precision.name} does without")
    return wanted


def _quantizing(options: Options, precision: Precision, rules: FormatRules) -> QuantizeOptions:
    interface = options.interface or rules.interface
    if interface not in rules.interfaces:
        raise UsageError(
            "interface-unknown",
            f"{options.precision} {options.format} has no {interface} interface; known: {', '.join(rules.interfaces)}",
        )
    lifts = layer_rules.read(options.rules)
    if lifts and not precision.calibrated:
        raise UsageError(
            "rules-precision", f"rules change layers of int8 or int16x8; {options.precision} has none to change"
        )
    return QuantizeOptions(
        interface,
        options.allow_float_ops or precision.float_ops == "listed",
        lifts,
        7 if options.weight_bits == 7 else 8,
    )


def _for_device(options: Options, precision: Precision) -> tuple[Options, Profile | None]:
    """The device's profile, and options with what follows from it."""
    from edgekit.device_profiles import load_profile

    profile = load_profile(options.device) if options.device else None
    return replace(options, weight_bits=saturation.weight_bits(options, precision, profile)), profile


def _gate(artifact: Artifact, profile: Profile) -> Verdict:
    from edgekit import gate
    from edgekit.formats import read_facts

    verdict = gate.check(read_facts(artifact), artifact.manifest, profile)
    gate.enforce(verdict)
    return verdict


def _replay(artifact: Artifact, target: str, scratch: Path) -> Replayed:
    from edgekit.targets import agent, tasks

    path = scratch / f"artifact.{artifact.format}"
    artifact.write(path)
    replayed = tasks.verify(agent.Opening(str(path)), target=target)
    agent.enforce(replayed, "the artifact")
    return replayed
