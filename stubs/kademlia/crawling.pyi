
from kademlia.node import Node, NodeHeap
from kademlia.protocol import KademliaProtocol

class SpiderCrawl:
    nearest: NodeHeap
    def __init__(self, protocol: KademliaProtocol, node: Node, peers: list[Node], ksize: int, alpha: int) -> None: ...
    async def find(self) -> object: ...

class NodeSpiderCrawl(SpiderCrawl):
    async def find(self) -> list[Node]: ...

class ValueSpiderCrawl(SpiderCrawl):
    async def find(self) -> object: ...
