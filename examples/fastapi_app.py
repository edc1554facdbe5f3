"""A FastAPI application with a route of its own, and mnist-serve with its page under /digits/.

pip install ./runtime ./runtime/serve fastapi
uvicorn --app-dir examples fastapi_app:app
curl --data-binary @examples/seven.jpg localhost:8000/digit
open http://localhost:8000/digits/
"""

import asyncio
from typing import Any

from fastapi import FastAPI, HTTPException, Request

from mnist_runtime import Classifier, DigitError
from mnist_serve import ServedModel, create_app

app = FastAPI()
classifier = Classifier()
app.mount("/digits", create_app(ServedModel(classifier)))


@app.post("/digit")
async def digit(request: Request) -> dict[str, Any]:
    """Answer an image with its digit, or with a sentence that says why there is none."""
    image = await request.body()
    try:
        return (await asyncio.to_thread(classifier.read, image)).to_dict()
    except DigitError as error:
        raise HTTPException(422, str(error)) from error
