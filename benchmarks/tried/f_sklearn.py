"""Needs scikit-learn and pandas; XGBoost, LightGBM and CatBoost where they are installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tried.case import Case, Made


def numbers(rows: int = 400, columns: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, columns)).astype(np.float32)
    value = x @ random.normal(size=columns) + 0.5 * x[:, 0] * x[:, 1]
    return x, np.digitize(value, (-1, 1)), value.astype(np.float32)


def answered(model: Any, x: Any) -> Callable[[list[str]], dict[str, np.ndarray]]:
    """What the estimator says, by the names that docs/scikit-learn.md gives."""

    def label() -> np.ndarray:
        said = np.asarray(model.predict(x))
        known = getattr(model, "classes_", None)
        return said if known is None else np.array([list(known).index(each) for each in said])

    def scores() -> np.ndarray:
        if hasattr(model, "voting"):
            votes = np.stack([each.predict(x) for each in model.estimators_], axis=1)
            return (votes[:, :, None] == np.arange(len(model.classes_))).sum(axis=1)
        found = model.decision_function(x)
        return np.stack([-found, found], axis=1) if found.ndim == 1 else found

    def output() -> np.ndarray:
        found = model.predict(x) if hasattr(model, "predict") else model.transform(x)
        return found.toarray() if hasattr(found, "toarray") else np.asarray(found)

    said = {
        "label": label, "probabilities": lambda: model.predict_proba(x), "scores": scores, "output": output,
        "score": lambda: model.decision_function(x), "distances": lambda: model.transform(x),
    }  # fmt: skip
    return lambda names: {name: np.asarray(said[name]()) for name in names}


def cases() -> Iterator[Case]:
    import pandas as pd
    from sklearn import (
        calibration,
        cluster,
        compose,
        covariance,
        cross_decomposition,
        decomposition,
        discriminant_analysis,
        dummy,
        ensemble,
        feature_extraction,
        feature_selection,
        gaussian_process,
        impute,
        isotonic,
        kernel_approximation,
        kernel_ridge,
        linear_model,
        mixture,
        multiclass,
        multioutput,
        naive_bayes,
        neighbors,
        neural_network,
        pipeline,
        preprocessing,
        random_projection,
        semi_supervised,
        svm,
        tree,
    )  # fmt: skip

    x, classes, value = numbers()
    words = np.array(["low", "mid", "high"])[classes]
    many = np.stack([value, value * 2 + x[:, 2]], axis=1)
    both = np.stack([classes, classes > 0], axis=1).astype(int)
    pipe = pipeline.make_pipeline
    scale = preprocessing.StandardScaler

    def plain(make: Callable[[], Any], target: Any = classes, inputs: Any = x, **more: Any) -> Made:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = make().fit(inputs, target)
        return Made(model, {more.pop("name", "x"): inputs}, answered(model, inputs), **more)

    known: dict[str, tuple[Callable[[], Any], Any]] = {
        "pipeline poly + logistic": (lambda: pipe(preprocessing.PolynomialFeatures(2), scale(), linear_model.LogisticRegression()), classes),
        "string classes": (lambda: pipe(scale(), linear_model.LogisticRegression()), words),
        "string classes forest": (lambda: ensemble.RandomForestClassifier(20, max_depth=5, random_state=0), words),
        "bool classes": (lambda: linear_model.LogisticRegression(), classes > 0),
        "negative classes": (lambda: ensemble.GradientBoostingClassifier(n_estimators=10), classes * 2 - 3),
        "voting hard": (lambda: ensemble.VotingClassifier([("a", linear_model.LogisticRegression()), ("b", tree.DecisionTreeClassifier(max_depth=4))]), classes),
        "voting soft": (lambda: ensemble.VotingClassifier([("a", linear_model.LogisticRegression()), ("b", tree.DecisionTreeClassifier(max_depth=4)), ("c", naive_bayes.GaussianNB())], voting="soft", weights=[1, 2, 1]), classes),
        "voting regressor": (lambda: ensemble.VotingRegressor([("a", linear_model.Ridge()), ("b", tree.DecisionTreeRegressor(max_depth=4))]), value),
        "stacking": (lambda: ensemble.StackingClassifier([("a", linear_model.LogisticRegression()), ("b", tree.DecisionTreeClassifier(max_depth=4))], passthrough=True), classes),
        "stacking regressor": (lambda: ensemble.StackingRegressor([("a", linear_model.Ridge()), ("b", svm.SVR())]), value),
        "calibrated sigmoid": (lambda: calibration.CalibratedClassifierCV(svm.LinearSVC(), cv=2), classes),
        "calibrated isotonic": (lambda: calibration.CalibratedClassifierCV(naive_bayes.GaussianNB(), method="isotonic", cv=2), classes),
        "multi-output classifier": (lambda: multioutput.MultiOutputClassifier(linear_model.LogisticRegression()), both),
        "multi-output forest": (lambda: ensemble.RandomForestClassifier(10, max_depth=4, random_state=0), both),
        "multi-output regressor": (lambda: multioutput.MultiOutputRegressor(ensemble.GradientBoostingRegressor(n_estimators=8)), many),
        "regressor chain": (lambda: multioutput.RegressorChain(linear_model.Ridge()), many),
        "ridge, two targets": (lambda: linear_model.Ridge(), many),
        "one-vs-rest": (lambda: multiclass.OneVsRestClassifier(svm.LinearSVC()), classes),
        "one-vs-one": (lambda: multiclass.OneVsOneClassifier(linear_model.LogisticRegression()), classes),
        "gaussian process": (lambda: gaussian_process.GaussianProcessRegressor(), value),
        "gaussian process RBF+white": (lambda: gaussian_process.GaussianProcessRegressor(gaussian_process.kernels.RBF() + gaussian_process.kernels.WhiteKernel(), normalize_y=True), value),
        "gaussian process matern": (lambda: gaussian_process.GaussianProcessRegressor(1.5 * gaussian_process.kernels.Matern(nu=1.5)), value),
        "gaussian process classifier": (lambda: gaussian_process.GaussianProcessClassifier(), classes > 0),
        "isolation forest": (lambda: ensemble.IsolationForest(n_estimators=20, random_state=0), None),
        "one-class SVM": (lambda: svm.OneClassSVM(gamma=0.1), None),
        "SGD one-class": (lambda: linear_model.SGDOneClassSVM(), None),
        "LOF novelty": (lambda: neighbors.LocalOutlierFactor(novelty=True), None),
        "elliptic envelope": (lambda: covariance.EllipticEnvelope(random_state=0), None),
        "kbins onehot": (lambda: pipe(preprocessing.KBinsDiscretizer(4), linear_model.LogisticRegression()), classes),
        "kbins ordinal": (lambda: pipe(preprocessing.KBinsDiscretizer(4, encode="ordinal"), linear_model.Ridge()), value),
        "spline": (lambda: pipe(preprocessing.SplineTransformer(), linear_model.Ridge()), value),
        "power + quantile": (lambda: pipe(preprocessing.PowerTransformer(), linear_model.Ridge()), value),
        "quantile transformer": (lambda: pipe(preprocessing.QuantileTransformer(n_quantiles=50, output_distribution="normal"), linear_model.Ridge()), value),
        "robust, max-abs, normalizer": (lambda: pipe(preprocessing.RobustScaler(), preprocessing.MaxAbsScaler(), preprocessing.Normalizer(), linear_model.Ridge()), value),
        "PCA + kNN": (lambda: pipe(decomposition.PCA(3), neighbors.KNeighborsClassifier()), classes),
        "PCA whiten + SVC proba": (lambda: pipe(decomposition.PCA(3, whiten=True), svm.SVC(probability=True)), classes),
        "SVC ovo decision": (lambda: svm.SVC(decision_function_shape="ovo"), classes),
        "NuSVC poly": (lambda: svm.NuSVC(kernel="poly", degree=2, nu=0.3), classes),
        "SVR sigmoid": (lambda: svm.SVR(kernel="sigmoid"), value),
        "kernel ridge": (lambda: kernel_ridge.KernelRidge(kernel="rbf"), value),
        "nystroem": (lambda: pipe(kernel_approximation.Nystroem(n_components=20, random_state=0), linear_model.LogisticRegression()), classes),
        "rbf sampler": (lambda: pipe(kernel_approximation.RBFSampler(n_components=20, random_state=0), linear_model.LogisticRegression()), classes),
        "truncated SVD": (lambda: pipe(decomposition.TruncatedSVD(3), linear_model.LogisticRegression()), classes),
        "fast ICA": (lambda: pipe(decomposition.FastICA(3, random_state=0), linear_model.LogisticRegression()), classes),
        "NMF": (lambda: pipe(preprocessing.MinMaxScaler(), decomposition.NMF(3, random_state=0), linear_model.LogisticRegression()), classes),
        "feature union": (lambda: pipe(pipeline.FeatureUnion([("a", decomposition.PCA(2)), ("b", scale()), ("c", "passthrough")]), linear_model.Ridge()), value),
        "select k best": (lambda: pipe(feature_selection.SelectKBest(k=3), linear_model.LogisticRegression()), classes),
        "RFE": (lambda: pipe(feature_selection.RFE(linear_model.LogisticRegression(), n_features_to_select=3), tree.DecisionTreeClassifier(max_depth=4)), classes),
        "select from model": (lambda: pipe(feature_selection.SelectFromModel(ensemble.ExtraTreesClassifier(10, random_state=0)), linear_model.LogisticRegression()), classes),
        "variance threshold": (lambda: pipe(feature_selection.VarianceThreshold(0.1), linear_model.Ridge()), value),
        "random projection": (lambda: pipe(random_projection.GaussianRandomProjection(4, random_state=0), linear_model.Ridge()), value),
        "function transformer log1p": (lambda: pipe(preprocessing.MinMaxScaler(), preprocessing.FunctionTransformer(np.log1p), linear_model.Ridge()), value),
        "target: TransformedTargetRegressor": (lambda: compose.TransformedTargetRegressor(linear_model.Ridge(), transformer=scale()), value),
        "k-means": (lambda: cluster.KMeans(4, n_init=2, random_state=0), None),
        "mini-batch k-means": (lambda: pipe(scale(), cluster.MiniBatchKMeans(4, n_init=2, random_state=0)), None),
        "birch": (lambda: cluster.Birch(n_clusters=3), None),
        "gaussian mixture": (lambda: mixture.GaussianMixture(3, random_state=0), None),
        "bayesian mixture": (lambda: mixture.BayesianGaussianMixture(n_components=3, random_state=0), None),
        "LDA": (lambda: discriminant_analysis.LinearDiscriminantAnalysis(), classes),
        "QDA": (lambda: discriminant_analysis.QuadraticDiscriminantAnalysis(), classes),
        "bernoulli NB": (lambda: naive_bayes.BernoulliNB(), classes),
        "complement NB": (lambda: pipe(preprocessing.MinMaxScaler(), naive_bayes.ComplementNB()), classes),
        "multinomial NB": (lambda: pipe(preprocessing.MinMaxScaler(), naive_bayes.MultinomialNB()), classes),
        "categorical-like kBins NB": (lambda: pipe(preprocessing.KBinsDiscretizer(4, encode="ordinal"), naive_bayes.CategoricalNB()), classes),
        "nearest centroid": (lambda: neighbors.NearestCentroid(), classes),
        "radius neighbors": (lambda: neighbors.RadiusNeighborsRegressor(3.0), value),
        "kNN manhattan distance": (lambda: neighbors.KNeighborsClassifier(weights="distance", metric="manhattan"), classes),
        "kNN regressor": (lambda: neighbors.KNeighborsRegressor(weights="distance"), value),
        "NCA + kNN": (lambda: pipe(neighbors.NeighborhoodComponentsAnalysis(2, random_state=0), neighbors.KNeighborsClassifier()), classes),
        "MLP tanh": (lambda: neural_network.MLPClassifier((8, 8), activation="tanh", max_iter=60, random_state=0), words),
        "MLP regressor 2": (lambda: neural_network.MLPRegressor(hidden_layer_sizes=(8,), activation="logistic", max_iter=60, random_state=0), many),
        "perceptron": (lambda: linear_model.Perceptron(), classes),
        "passive aggressive": (lambda: linear_model.SGDClassifier(loss="modified_huber"), classes),
        "SGD log": (lambda: linear_model.SGDClassifier(loss="log_loss"), classes),
        "ridge classifier": (lambda: linear_model.RidgeClassifier(), classes),
        "poisson": (lambda: linear_model.PoissonRegressor(), np.exp(value / 3)),
        "gamma": (lambda: linear_model.GammaRegressor(), np.exp(value / 3)),
        "tweedie": (lambda: linear_model.TweedieRegressor(power=1.5, link="log"), np.exp(value / 3)),
        "huber": (lambda: linear_model.HuberRegressor(), value),
        "RANSAC": (lambda: linear_model.RANSACRegressor(random_state=0), value),
        "theil-sen": (lambda: linear_model.TheilSenRegressor(random_state=0), value),
        "bayesian ridge": (lambda: linear_model.BayesianRidge(), value),
        "ARD": (lambda: linear_model.ARDRegression(), value),
        "quantile regressor": (lambda: linear_model.QuantileRegressor(alpha=0.01), value),
        "lasso CV": (lambda: linear_model.LassoCV(cv=3), value),
        "PLS": (lambda: cross_decomposition.PLSRegression(2), many),
        "adaboost": (lambda: ensemble.AdaBoostClassifier(n_estimators=8, random_state=0), classes),
        "adaboost regressor": (lambda: ensemble.AdaBoostRegressor(n_estimators=8, random_state=0), value),
        "bagging": (lambda: ensemble.BaggingClassifier(linear_model.LogisticRegression(), 4, max_features=0.5, random_state=0), classes),
        "hist boosting": (lambda: ensemble.HistGradientBoostingClassifier(max_iter=10), classes),
        "hist boosting poisson": (lambda: ensemble.HistGradientBoostingRegressor(loss="poisson", max_iter=10), np.exp(value / 3)),
        "extra trees": (lambda: ensemble.ExtraTreesRegressor(10, max_depth=4, random_state=0), value),
        "random trees embedding": (lambda: pipe(ensemble.RandomTreesEmbedding(4, max_depth=3, random_state=0), linear_model.LogisticRegression()), classes),
        "dummy": (lambda: dummy.DummyClassifier(), classes),
        "label spreading": (lambda: semi_supervised.LabelSpreading(), classes),
        "self training": (lambda: semi_supervised.SelfTrainingClassifier(linear_model.LogisticRegression()), classes),
        "output code": (lambda: multiclass.OutputCodeClassifier(linear_model.LogisticRegression(), random_state=0), classes),
        "classifier chain": (lambda: multioutput.ClassifierChain(linear_model.LogisticRegression()), (both > 0).astype(int)),
        "threshold tuned": (lambda: __import__("sklearn.model_selection").model_selection.TunedThresholdClassifierCV(linear_model.LogisticRegression()), classes > 0),
        "grid search": (lambda: __import__("sklearn.model_selection").model_selection.GridSearchCV(pipe(scale(), svm.SVC()), {"svc__C": [1, 3]}, cv=2), classes),
        "isotonic 1-D": (lambda: isotonic.IsotonicRegression(out_of_bounds="clip"), value),
        "PCA alone": (lambda: decomposition.PCA(3), None),
        "scaler alone": (lambda: scale(), None),
    }  # fmt: skip
    for name, (make, target) in known.items():
        one = x[:, :1] if name == "isotonic 1-D" else x
        yield Case(name, lambda make=make, target=target, one=one: plain(make, target, one))

    missing = x.copy()
    missing[::7, 1] = np.nan
    imputed = {
        "impute mean": lambda: pipe(impute.SimpleImputer(), linear_model.Ridge()),
        "impute indicator": lambda: pipe(
            impute.SimpleImputer(strategy="median", add_indicator=True), linear_model.Ridge()
        ),
        "impute kNN": lambda: pipe(impute.KNNImputer(n_neighbors=3), linear_model.Ridge()),
        "hist boosting missing": lambda: ensemble.HistGradientBoostingRegressor(max_iter=10),
        "forest missing": lambda: ensemble.RandomForestRegressor(8, max_depth=4, random_state=0),
    }
    for name, make in imputed.items():
        yield Case(name, lambda make=make: plain(make, value, missing))

    table = pd.DataFrame(x[:, :3], columns=["age", "income €", "x y"])
    table["city"] = np.array(["Rome", "Ørsted", "a,b", "D'or"])[np.arange(len(x)) % 4]
    table["kind"] = np.array([3, 7, 11])[np.arange(len(x)) % 3]
    text = [["red apple", "green pear and apple", "blue Sky!", "the sky is blue; pears"][i % 4] for i in range(len(x))]

    def columns() -> Any:
        return compose.ColumnTransformer(
            [
                ("n", pipe(impute.SimpleImputer(), scale()), ["age", "income €"]),
                ("c", preprocessing.OneHotEncoder(handle_unknown="ignore"), ["city", "kind"]),
            ],
            remainder="passthrough",
        )

    def framed(make: Callable[[], Any], target: Any, frame: Any = table) -> Made:
        model = make().fit(frame, target)
        data = {name: frame[[name]].to_numpy() for name in frame.columns}
        return Made(model, data, answered(model, frame))

    yield Case(
        "pandas numbers with names",
        lambda: framed(lambda: pipe(scale(), linear_model.LogisticRegression()), words, table[["age", "x y"]]),
    )
    yield Case(
        "column transformer numbers",
        lambda: framed(
            lambda: pipe(
                compose.ColumnTransformer([("a", scale(), ["age"]), ("b", preprocessing.MinMaxScaler(), ["x y"])]),
                linear_model.Ridge(),
            ),
            value,
            table[["age", "income €", "x y"]],
        ),
    )
    yield Case(
        "column transformer mixed", lambda: framed(lambda: pipe(columns(), linear_model.LogisticRegression()), words)
    )
    yield Case(
        "column transformer mixed forest",
        lambda: framed(lambda: pipe(columns(), ensemble.RandomForestRegressor(8, max_depth=4)), value),
    )
    yield Case(
        "ordinal encoder ints",
        lambda: plain(
            lambda: pipe(preprocessing.OneHotEncoder(), linear_model.Ridge()),
            value,
            (np.abs(x) * 2).astype(np.int64)[:, :3] % 3,
        ),
    )
    yield Case(
        "tf-idf",
        lambda: Made(
            (m := pipe(feature_extraction.text.TfidfVectorizer(), linear_model.LogisticRegression()).fit(text, words)),
            {"x": np.array(text)[:, None]},
            answered(m, text),
        ),
    )
    yield Case(
        "count vectorizer",
        lambda: Made(
            (
                m := pipe(feature_extraction.text.CountVectorizer(ngram_range=(1, 2)), naive_bayes.MultinomialNB()).fit(
                    text, words
                )
            ),
            {"x": np.array(text)[:, None]},
            answered(m, text),
        ),
    )
    yield Case(
        "hashing",
        lambda: Made(
            (
                m := pipe(feature_extraction.text.HashingVectorizer(n_features=32), linear_model.Ridge()).fit(
                    text, value
                )
            ),
            {"x": np.array(text)[:, None]},
            answered(m, text),
        ),
    )
    yield Case(
        "dict vectorizer",
        lambda: Made(
            (
                m := pipe(feature_extraction.DictVectorizer(), linear_model.Ridge()).fit(
                    [{"a": 1.0, "b": "u"}] * 400, value
                )
            ),
            {"x": x[:, :2]},
            [m.predict([{"a": 1.0, "b": "u"}] * 400)],
        ),
    )
    yield from boosted(x, classes, value, words, plain, missing)


def boosted(x: Any, classes: Any, value: Any, words: Any, plain: Any, missing: Any) -> Iterator[Case]:
    import importlib.util

    if importlib.util.find_spec("xgboost"):
        import xgboost as xgb

        for name, make, target in (
            ("xgboost 3 classes", lambda: xgb.XGBClassifier(n_estimators=8, max_depth=3), classes),
            ("xgboost binary", lambda: xgb.XGBClassifier(n_estimators=8, max_depth=3), (classes > 0).astype(int)),
            ("xgboost regressor", lambda: xgb.XGBRegressor(n_estimators=8, max_depth=3), value),
            ("xgboost poisson", lambda: xgb.XGBRegressor(n_estimators=8, objective="count:poisson"), np.exp(value / 3)),
            ("xgboost random forest", lambda: xgb.XGBRFRegressor(n_estimators=8, max_depth=3), value),
            ("xgboost linear", lambda: xgb.XGBRegressor(booster="gblinear", n_estimators=8), value),
            (
                "xgboost dart",
                lambda: xgb.XGBRegressor(booster="dart", rate_drop=0.3, n_estimators=8, max_depth=3),
                value,
            ),
            (
                "xgboost two targets",
                lambda: xgb.XGBRegressor(n_estimators=8, max_depth=3),
                np.stack([value, -value], 1),
            ),
            (
                "xgboost multi-output tree",
                lambda: xgb.XGBRegressor(n_estimators=4, max_depth=3, multi_strategy="multi_output_tree"),
                np.stack([value, -value], 1),
            ),
        ):
            yield Case(name, lambda make=make, target=target: plain(make, target))
        yield Case(
            "xgboost missing", lambda: plain(lambda: xgb.XGBRegressor(n_estimators=8, max_depth=3), value, missing)
        )
    if importlib.util.find_spec("lightgbm"):
        import lightgbm as lgb

        for name, make, target in (
            ("lightgbm 3 classes", lambda: lgb.LGBMClassifier(n_estimators=8, verbose=-1), classes),
            ("lightgbm strings", lambda: lgb.LGBMClassifier(n_estimators=8, verbose=-1), words),
            ("lightgbm regressor", lambda: lgb.LGBMRegressor(n_estimators=8, verbose=-1), value),
            (
                "lightgbm tweedie",
                lambda: lgb.LGBMRegressor(n_estimators=8, objective="tweedie", verbose=-1),
                np.exp(value / 3),
            ),
            (
                "lightgbm rf",
                lambda: lgb.LGBMRegressor(
                    boosting_type="rf", bagging_freq=1, bagging_fraction=0.7, n_estimators=8, verbose=-1
                ),
                value,
            ),
            ("lightgbm linear tree", lambda: lgb.LGBMRegressor(linear_tree=True, n_estimators=8, verbose=-1), value),
        ):
            yield Case(name, lambda make=make, target=target: plain(make, target))
        yield Case(
            "lightgbm missing", lambda: plain(lambda: lgb.LGBMRegressor(n_estimators=8, verbose=-1), value, missing)
        )
        ints = np.abs(x * 3).astype(int).astype(np.float32)
        yield Case(
            "lightgbm categories",
            lambda: plain(
                lambda: lgb.LGBMRegressor(n_estimators=8, verbose=-1, categorical_feature=[0, 1]), value, ints
            ),
        )
    if importlib.util.find_spec("catboost"):
        yield from catboost(x, classes, value)


def catboost(x: Any, classes: Any, value: Any) -> Iterator[Case]:
    import tempfile
    from pathlib import Path

    import catboost as cat

    def exported(make: Callable[[], Any], target: Any) -> Made:
        model = make().fit(x, target)
        path = Path(tempfile.mkdtemp()) / "cat.onnx"
        model.save_model(str(path), format="onnx")
        regressor = isinstance(model, cat.CatBoostRegressor)
        answers = [model.predict(x)[:, None]] if regressor else {"probabilities": model.predict_proba(x)}
        return Made(path, {"features": x}, answers)

    yield Case(
        "catboost regressor",
        lambda: exported(lambda: cat.CatBoostRegressor(8, depth=3, verbose=0, allow_writing_files=False), value),
    )
    yield Case(
        "catboost binary",
        lambda: exported(lambda: cat.CatBoostClassifier(8, depth=3, verbose=0, allow_writing_files=False), classes > 0),
    )
    yield Case(
        "catboost 3 classes",
        lambda: exported(lambda: cat.CatBoostClassifier(8, depth=3, verbose=0, allow_writing_files=False), classes),
    )
    yield Case(
        "catboost live",
        lambda: Made(
            (m := cat.CatBoostRegressor(8, depth=3, verbose=0, allow_writing_files=False).fit(x, value)),
            {"x": x},
            [m.predict(x)],
        ),
    )
