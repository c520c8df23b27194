"""A worker that records what it runs, so that it can be counted how often a request ran."""

import ringmaster as rm


def record(request):
    line = request.body["line"]
    with open(request.body["file"], "a") as file:
        file.write(line + "\n")
    return {"line": line, "filling": line[:1].encode() * request.body["size"]}


rm.action("record")(record)
rm.action("record_again", idempotent=True)(record)

rm.serve()
