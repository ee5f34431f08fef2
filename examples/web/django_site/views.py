"""One view: it asks the model in this process, and says how it went in HTTP's terms."""

from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from django_site.serving import serving
from mlserve import DeadlineExceeded, InvalidInput, Transient
from mlserve.wire.status import http_status, retry_headers


@csrf_exempt
@require_POST
async def inspect(request: HttpRequest) -> JsonResponse:
    """Return the label of the image in the body."""
    try:
        answer = await serving.predict(request.body, timeout=2)
    except (DeadlineExceeded, Transient, InvalidInput) as error:
        headers = retry_headers(error)
        return JsonResponse({"error": error.message}, status=http_status(error), headers=headers)
    return JsonResponse({"label": answer.label})
