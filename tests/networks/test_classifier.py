import torch

from mdkd_auto.networks.classifier import ClassifierHead


def test_logits_are_a_linear_map_of_the_mean_of_the_last_map() -> None:
    head = ClassifierHead(channels=2, outputs=3).eval()
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        head.linear.bias.copy_(torch.tensor([0.0, 0.0, 10.0]))
    last = torch.tensor([[[[1.0, 3.0]], [[4.0, 8.0]]]])  # (1, 2, 1, 2): means 2 and 6
    assert head([torch.zeros(1, 9, 5, 5), last]).tolist() == [[2.0, 6.0, 18.0]]


def test_dropout_acts_in_training_alone() -> None:
    head = ClassifierHead(channels=64, outputs=1, dropout=0.5)
    maps = [torch.ones(1, 64, 2, 2, 2)]
    assert torch.equal(head.eval()(maps), head.eval()(maps))
    torch.manual_seed(0)
    assert not torch.equal(head.train()(maps), head.train()(maps))
