"""A small U-Net, plain and with scSE, trained on TensorFlow: `model.fit` from a `tf.data.Dataset`.

python examples/keras_tensorflow.py
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"  # read when Keras is imported

import keras
import tensorflow as tf
from cohort_slices import CLASSES, dice, read_slices

import scse.keras

(images, classes), (test_images, test_classes) = read_slices(cases=6)

for name, recalibration in (("plain", None), ("with scSE", "scse")):
    keras.utils.set_random_seed(0)
    # every batch of one shape, so that the step is compiled once; both networks see the same batches
    batches = (
        tf.data.Dataset.from_tensor_slices((images, classes))
        .cache()
        .shuffle(len(images), seed=0)
        .batch(5, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )
    network = scse.keras.networks.UNet(
        in_channels=1, classes=CLASSES, width=16, depth=3, kernel_size=3, recalibration=recalibration
    )
    network.compile(
        optimizer=keras.optimizers.Adam(3e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),  # the networks give logits
    )
    # shuffled by the pipeline
    losses = network.fit(batches, epochs=8, shuffle=False, verbose=0).history["loss"]
    predicted = network.predict(test_images, verbose=0).argmax(-1)
    score = dice(predicted, test_classes)
    print(f"{name}: loss {losses[0]:.3f} in the first epoch, {losses[-1]:.3f} in the last, Dice {score:.3f}")
