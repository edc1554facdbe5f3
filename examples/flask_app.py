"""A Flask route that recognises the digit in an image.

pip install "./runtime[image]" flask
flask --app examples/flask_app run
curl --data-binary @examples/seven.jpg localhost:5000/digit
"""

from typing import Any

from flask import Flask, request

from mnist_runtime import Classifier, DigitError

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 2**24  # bytes; Flask answers larger requests with 413
classifier = Classifier()  # one for all threads; a forked worker opens a session of its own


@app.post("/digit")
def digit() -> tuple[dict[str, Any], int]:
    """Answer an image with its digit, or with a sentence that says why there is none."""
    try:
        return classifier.read(request.get_data()).to_dict(), 200
    except DigitError as error:
        return {"error": str(error)}, 422
