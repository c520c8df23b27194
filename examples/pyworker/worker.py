"""A Ringmaster worker in Python: it upper-cases text, loudly."""

import ringmaster as rm


@rm.action("shout", idempotent=True)
def shout(request):
    return {"text": request.body["text"].upper() + "!"}


rm.serve()
