"""The mosec server; its own command line says where it listens."""

import work
from mosec import Server, Worker


class Work(Worker):
    """One process."""

    def deserialize(self, data):
        return data

    def serialize(self, data):
        return data

    def forward(self, data):
        return work.handle(data)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Work, num=1)
    server.run()
